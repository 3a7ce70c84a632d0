"""Series and answers made by code for the tests of the service."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cnr_iemn.errors import ScanError


def put(inbox: Path, name: str, *, files: int = 3, size: int = 10) -> Path:
    """Put a series of plain files into the inbox."""
    folder = inbox / name
    folder.mkdir(parents=True)
    for k in range(files):
        (folder / f"{k}.dcm").write_bytes(bytes([k]) * size)
    return folder


def capture(side: int = 16) -> FileDataset:
    """Return a secondary capture, as predict.py dicom=true writes one, with patterned pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(generate_uid(prefix=None))
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    data.PatientID, data.PatientName, data.Modality = "1", "A^B", "OT"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.Rows, data.Columns = 7, 0, side, side
    data.PixelData = (np.arange(side * side) % 256).astype(np.uint8).tobytes()
    return data


def answer(source: Path, folder: Path) -> None:
    """Answer a series by its number of files, with two objects; refuse one whose name says so."""
    if "damaged" in source.name:
        raise ScanError("damaged-file", f"{source.name}: the files are damaged.")
    (folder / "predictions.csv").write_text(f"{source.name},{len(list(source.iterdir()))}\n")
    target = folder / "dicom" / source.name
    target.mkdir(parents=True)
    for name in ("report", "capture"):
        capture().save_as(target / f"{name}.dcm", enforce_file_format=True)
