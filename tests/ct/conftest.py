"""DICOM series made by code, whose grey values say which slice they are."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence

N, SIDE, STEP = 24, 64, 2.5


def expected_hu(n: int = N) -> np.ndarray:
    """Air, and a square of soft tissue whose value is 10 + the index of the slice; int16 [n, 64, 64], head first."""
    hu = np.full((n, SIDE, SIDE), -1000, np.int16)
    hu[:, 16:48, 16:48] = 10 + np.arange(n)[:, None, None]
    return hu


def make_slices(n: int = N, *, step: float = STEP, series: str = "1.2.3", signed: bool = False) -> list[Dataset]:
    """Return ``n`` axial CT slices of ``expected_hu``, head first, 16 bits allocated, 12 stored (signed: 16)."""
    return [make_slice(hu, -step * k, k, series=series, signed=signed) for k, hu in enumerate(expected_hu(n))]


def make_slice(hu: np.ndarray, z: float, index: int, *, series: str, signed: bool) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{series}.{index + 1}"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = series, "1.2", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber, ds.SliceLocation = index + 1, z
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-20.0, -20.0, z], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 5
    ds.Rows, ds.Columns = hu.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (16, 16, 15) if signed else (16, 12, 11)
    ds.PixelRepresentation = int(signed)
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0 if signed else -1024
    ds.PixelData = hu.astype("<i2").tobytes() if signed else (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    return ds


def stored(ds: Dataset) -> np.ndarray:
    """Return the native pixels of a slice as written above."""
    kind = "<i2" if ds.PixelRepresentation else "<u2"
    return np.frombuffer(ds.PixelData, kind).reshape(ds.Rows, ds.Columns)


def recode(ds: Dataset, syntax: str) -> Dataset:
    """Compress a native slice in place, without loss unless the syntax has none."""
    pixels = np.ascontiguousarray(stored(ds))
    stream = {
        uid.JPEGLossless: lambda a: imagecodecs.jpeg8_encode(
            a, lossless=True, predictor=4, bitspersample=ds.BitsStored
        ),
        uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=ds.BitsStored),
        uid.JPEGExtended12Bit: lambda a: imagecodecs.jpeg8_encode(a, level=100, bitspersample=12),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode,
        uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="j2k"),
        uid.HTJ2KLossless: lambda a: imagecodecs.htj2k_encode(a, reversible=True),
    }[syntax](pixels)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    return ds


def _item(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def make_enhanced(
    *, order: Iterable[int] | None = None, syntax: str | None = None, shared_rescale: bool = True
) -> Dataset:
    """Return one multi-frame file of the usual slices, its frames in the given order."""
    slices = make_slices()
    slices = [slices[k] for k in (range(N) if order is None else order)]
    first = slices[0]
    rescale = DicomSequence([_item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")])
    shared = _item(
        PixelMeasuresSequence=DicomSequence([_item(PixelSpacing=[0.7, 0.7], SliceThickness=5)]),
        PlaneOrientationSequence=DicomSequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
    )
    if shared_rescale:
        shared.PixelValueTransformationSequence = rescale
    groups = []
    for ds in slices:
        group = _item(PlanePositionSequence=DicomSequence([_item(ImagePositionPatient=ds.ImagePositionPatient)]))
        if not shared_rescale:
            group.PixelValueTransformationSequence = rescale
        groups.append(group)
    pixels = [ds.PixelData for ds in slices]
    if syntax:
        pixels = [next(generate_frames(recode(ds, syntax).PixelData, number_of_frames=1)) for ds in slices]
    first.file_meta.TransferSyntaxUID = syntax or uid.ExplicitVRLittleEndian
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceLocation"):
        delattr(first, keyword)
    del first.RescaleSlope, first.RescaleIntercept
    first.NumberOfFrames = len(slices)
    first.SharedFunctionalGroupsSequence = DicomSequence([shared])
    first.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    first.PixelData = encapsulate(pixels) if syntax else b"".join(pixels)
    first["PixelData"].VR = "OB" if syntax else "OW"
    return first


def write(folder: Path, slices: Sequence[Dataset], names: Sequence[str] | None = None) -> Path:
    """Write the slices as files of a new or existing folder, by default IM0000.dcm and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, ds in enumerate(slices):
        ds.save_as(folder / (names[k] if names else f"IM{k:04d}.dcm"), enforce_file_format=True)
    return folder


class Builder:
    """The functions above, for tests to take as one fixture."""

    n, side, step = N, SIDE, STEP
    expected_hu = staticmethod(expected_hu)
    make_slices = staticmethod(make_slices)
    make_enhanced = staticmethod(make_enhanced)
    stored = staticmethod(stored)
    recode = staticmethod(recode)
    write = staticmethod(write)


@pytest.fixture(scope="session")
def dicom() -> type[Builder]:
    return Builder


@pytest.fixture
def scan_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write slices to the folder P012 and return it."""

    def make(slices: Sequence[Dataset], names: Sequence[str] | None = None) -> Path:
        return write(tmp_path / "P012", slices, names)

    return make
