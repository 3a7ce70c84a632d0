"""Write a phantom scan as a series of JPEG Lossless CT images with the real set's header fields and hazards."""

from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, JPEGLosslessSV1

from cnr_iemn.phantom.random_fields import stream
from cnr_iemn.phantom.renderer import PhantomScan

MANUFACTURER = "CNR-IEMN PHANTOM"
INTERCEPT = -1024


def encode(stored: NDArray[np.uint16]) -> bytes:
    """Return the image [rows, columns] of 12-bit values as a JPEG Lossless stream of first-order prediction (.70)."""
    return bytes(imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=12))


def write_series(folder: Path, scan: PhantomScan) -> None:
    """Write one file a slice into the new ``folder``. File names, UIDs and header values know nothing of the class."""
    folder.mkdir(parents=True)
    rng = stream(scan.spec.seed, "header")
    common = series_header(rng, scan)
    names = file_names(rng, str(common.PatientID), len(scan.hu))
    shared_uid = rng.random() < 0.3  # anonymised files with an empty SOPInstanceUID occur in half of the real sample
    for index, name in enumerate(names):
        image = Dataset()
        image.update(common)
        image.SOPInstanceUID = "" if shared_uid else f"{common.SeriesInstanceUID}.{index + 1}"
        stored = (scan.hu[index].astype(np.int32) - INTERCEPT).astype(np.uint16)
        fill_slice(image, index, scan, stored)
        write_file(folder / name, image)


def random_uid(rng: np.random.Generator) -> str:
    """Return a UUID-derived UID (PS3.5 B.2) short enough to take a slice's number."""
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"


def series_header(rng: np.random.Generator, scan: PhantomScan) -> Dataset:
    """Return the attributes that all slices of a scan share."""
    protocol = scan.spec.protocol
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = "20200101"
    header.StudyTime = header.SeriesTime = "120000"
    header.AccessionNumber = ""
    header.Modality = "CT"
    header.Manufacturer = MANUFACTURER
    header.ManufacturerModelName = "Synthetic chest CT"
    header.SeriesDescription = "Phantom, no diagnostic meaning"
    header.PatientName = ""
    header.PatientID = f"PHANTOM-{rng.integers(16**6):06X}"
    header.PatientSex = "F" if scan.spec.anatomy.female else "M"
    header.PatientAge = f"{rng.integers(20, 90):03d}Y"
    header.BodyPartExamined = "CHEST"
    header.SliceThickness = "2"
    header.KVP = str(rng.choice([110, 130]))
    header.ReconstructionDiameter = f"{protocol.field_of_view:.1f}"
    header.GantryDetectorTilt = "0"
    header.XRayTubeCurrent = str(rng.integers(20, 80) if protocol.low_dose else rng.integers(90, 260))
    header.ConvolutionKernel = "PHANTOM"
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = random_uid(rng)
    header.SeriesInstanceUID = random_uid(rng)
    header.FrameOfReferenceUID = random_uid(rng)
    header.StudyID = "1"
    header.SeriesNumber = str(rng.integers(2, 6))
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = scan.hu.shape[1:]
    header.PixelSpacing = [f"{scan.spacing_mm[1]:.9f}", f"{scan.spacing_mm[2]:.9f}"]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.QualityControlImage = "YES"  # an image of a phantom (PS3.3 C.7.6.1): how readers know the cohort
    header.WindowCenter, header.WindowWidth = [50, -600], [350, 1200]
    header.RescaleIntercept, header.RescaleSlope = INTERCEPT, 1
    header.LossyImageCompression = "00"
    return header


def fill_slice(image: Dataset, index: int, scan: PhantomScan, stored: NDArray[np.uint16]) -> None:
    """Add what differs between slices: number, position, range of values, pixels."""
    protocol = scan.spec.protocol
    half = protocol.field_of_view / 2 - scan.spacing_mm[1] / 2
    z = f"{scan.z_mm[index]:.4f}"
    image.InstanceNumber = index + 1
    image.ImagePositionPatient = [f"{protocol.centre[0] - half:.4f}", f"{protocol.centre[1] - half:.4f}", z]
    image.SliceLocation = z
    image.SmallestImagePixelValue, image.LargestImagePixelValue = int(stored.min()), int(stored.max())
    image.PixelData = encapsulate([encode(stored)])


def file_names(rng: np.random.Generator, patient: str, count: int) -> list[str]:
    """Return a name for each slice, head first: in order in some scans, in most neither by text nor by number."""
    if rng.random() < 0.25:
        return [f"IM{index + 1:04d}.dcm" for index in range(count)]
    return [f"{patient}_{number}.dcm" for number in rng.permutation(count) + 1]


def write_file(path: Path, image: Dataset) -> None:
    """Write one image with its file meta information, which names no instance, as in the real set."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # filled in on writing
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = JPEGLosslessSV1
    file = FileDataset(str(path), image, preamble=b"\0" * 128, file_meta=meta)
    file["PixelData"].is_undefined_length = True
    file["PixelData"].VR = "OB"
    file.save_as(path, enforce_file_format=False)
