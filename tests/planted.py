"""Values that identify, planted in every text of a scan's files, and the search for them in whatever is written."""

import base64
import gzip
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow.parquet
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

STEM = "QZXJVKWQ"
"""In every value of free text; after it comes which element holds it."""
PLANTED: dict[str, str] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"), STEM),
    "PN": f"{STEM}^{STEM}",
    "UR": f"urn:{STEM}",
    "UI": "1.2.840.99173946",
    "DA": "18730929",
    "TM": "014759.918273",
    "DT": "18730929014759.918273",
    "IS": "1917394628",
    "DS": "7391739462.25",
    "AS": "973W",
}
"""A value of each text VR; no other thing in the files of a study is written like them."""
OTHERWISE = ("1873-09-29", "7.39174e+09", "1,917,394,628", "7,391,739,462")
"""How a program may write some of them, and no file does."""
SOUGHT = (STEM, PLANTED["UI"], PLANTED["DA"], PLANTED["TM"], PLANTED["IS"], "7391739462", *OTHERWISE)
BOUNDED = (PLANTED["AS"],)
"""Too short to be told from chance within other words."""

KEPT: dict[str, str] = {
    "SOPClassUID": "tells what the file is: told by a name of DICOM's own list, or as unknown",
    "TransferSyntaxUID": "tells how the pixels are stored: told likewise",
    "MediaStorageSOPClassUID": "stands for SOPClassUID where that is missing",
    "PhotometricInterpretation": "MONOCHROME1 or 2, or the file is no CT image",
    "NumberOfFrames": "1, or the file is no single slice",
    "QualityControlImage": "YES says that the scan is synthetic",
    "ImagePositionPatient": "a length in mm: the order of the slices rests on it, and z is told",
    "ImageOrientationPatient": "direction cosines, as above",
    "PixelSpacing": "a length in mm, told as such",
    "RescaleSlope": "brings the pixels to HU",
    "RescaleIntercept": "likewise",
    "KVP": "kV, a number that the audit keeps",
    "SliceThickness": "mm, likewise",
    "XRayTubeCurrent": "mA, likewise",
}
"""Elements of a scan that is to be read which the reader needs a meaning from, and why; all others are planted in."""

_GROUPS = {0x0000, 0x0002, 0x0004, 0xFFFE}  # of commands, of file meta information (below), of DICOMDIR, of items


def _value(vr: str, number: int) -> str:
    value = PLANTED[vr]
    if vr == "UI":
        return f"{value}.{number}"
    return value.replace(STEM, f"{STEM}{number:04d}", 1) if STEM in value else value


def texts() -> Iterator[tuple[int, str, str]]:
    """Give tag, VR and keyword of each element of DICOM's dictionary that holds text, but for KEPT.

    SpecificCharacterSet and SeriesInstanceUID are planted by themselves.
    """
    for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items()):
        if vr in PLANTED and keyword not in KEPT and tag >> 16 not in _GROUPS and tag not in (0x00080005, 0x0020000E):
            yield tag, vr, keyword


def plant(ds: Dataset, *, all_elements: bool) -> None:
    """Put a value in every text element of a dataset and of its file meta information, nested and private ones too."""
    usual = {element.tag for element in ds if element.VR in PLANTED} | {
        pydicom.datadict.tag_for_keyword(name)
        for name in (
            "PatientName",
            "PatientID",
            "StudyDate",
            "InstitutionName",
            "ConvolutionKernel",
            "ManufacturerModelName",
        )
    }
    for number, (tag, vr, _) in enumerate(texts()):
        if all_elements or tag in usual:
            ds.add_new(tag, vr, _value(vr, number))
    ds.SpecificCharacterSet = f"{STEM}CHAR"  # no such set: a reader would warn of it
    inner, middle = Dataset(), Dataset()
    for number, (vr, tag) in enumerate(_ONE_OF_EACH.items()):
        inner.add_new(tag, vr, _value(vr, 9000 + number))
        for place in (ds, inner):
            place.private_block(0x0013, f"{STEM}PRIV", create=True).add_new(number, vr, _value(vr, 9100 + number))
    middle.ReferencedStudySequence = Sequence([inner])
    ds.RequestAttributesSequence = Sequence([middle])
    ds.file_meta.MediaStorageSOPInstanceUID = f"{PLANTED['UI']}.1"
    ds.file_meta.ImplementationVersionName = f"{STEM}VERS"
    ds.file_meta.SourceApplicationEntityTitle = f"{STEM}AET"
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = f"{PLANTED['UI']}.2", STEM.encode()


_ONE_OF_EACH = {vr: tag for tag, vr, _ in texts()}


def plant_folder(folder: Path) -> Path:
    """Plant in each file of a scan: in one every element there is, in the others those that files have."""
    for k, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        plant(ds, all_elements=k == 0)
        save(ds, path)
    return folder


def save(ds: Dataset, path: Path) -> None:
    """Write a file as it is, whatever pydicom thinks of its values."""
    with pydicom.config.disable_value_validation():
        ds.save_as(path)


def found_in(data: bytes, sought: tuple[str, ...] = SOUGHT) -> set[str]:
    """Return which of the values stand in some bytes: as they are, in base64 or quoted for a URL."""
    lower, found = data.lower(), set()
    for value in sought:
        plain = {value.encode(), quote(value, safe="").encode(), value.encode("utf-16-le")}
        if any(form.lower() in lower for form in plain) or any(form in data for form in _base64(value)):
            found.add(value)
    return found | {value for value in BOUNDED if re.search(rf"(?<![\w+/]){value}(?![\w+/])".encode(), data)}


def _base64(value: str) -> Iterator[bytes]:
    """Give what base64 makes of a value wherever it begins in three bytes, but for what its neighbours change."""
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + value.encode()).rstrip(b"=")
        last = len(coded) - bool((shift + len(value)) % 3)
        yield coded[(0, 2, 3)[shift] : last]


def leaks(folder: Path, sought: tuple[str, ...] = SOUGHT) -> Mapping[str, set[str]]:
    """Return which values stand in which files below a folder, their names included, and within what is packed."""
    return {
        str(path): found
        for path in folder.rglob("*")
        if (found := set().union(*(found_in(part, sought) for part in _layers(path))))
    }


def _layers(path: Path) -> Iterator[bytes]:
    yield path.name.encode()
    if not path.is_file():
        return
    data = path.read_bytes()
    if path.suffix != ".ckpt":  # a zip whose members are not packed, nearly all of it tensors
        yield data
    if path.suffix == ".parquet":
        yield str(pyarrow.parquet.read_schema(path).metadata).encode()
        yield pd.read_parquet(path).to_csv().encode()
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist() if "/data/" not in name)
