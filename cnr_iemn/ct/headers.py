"""One DICOM file's header as plain, checked values. No pixel is read."""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cnr_iemn.errors import ScanError

CT_IMAGE = "CTImageStorage"
ENHANCED_CT = ("EnhancedCTImageStorage", "LegacyConvertedEnhancedCTImageStorage")

# what pydicom raises on damaged files
PARSE_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    EOFError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)

_TAGS: list[int | str] = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImageType",
    "InstanceNumber",
    "SliceLocation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "LossyImageCompression",
    "QualityControlImage",
]


class UnreadableFileError(ScanError):
    """The file is empty, no DICOM, or its header is damaged."""


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores its pixels; None where the header does not say.

    ``smallest``, ``largest``: the file's own statement of its stored range (0028,0106/0107). ``padding``: stored value
    outside the field of view (0028,0120), up to ``padding_limit`` (0028,0121). ``offset``: bytes before Pixel Data in
    the file, None where the file is deflated. ``explicit_big``: VR is explicit, byte order is big endian.
    """

    transfer_syntax: str
    offset: int | None
    explicit: bool
    big_endian: bool
    rows: int | None
    columns: int | None
    samples: int | None
    photometric: str
    frames: int | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: bool
    smallest: int | None
    largest: int | None
    padding: int | None
    padding_limit: int | None
    lossy: bool


@dataclass(frozen=True)
class SliceHeader:
    """One file. ``name``: scan and file, for messages. ``sop_class``: keyword of the SOP class, '' where unknown.

    ``position``: ImagePositionPatient in mm; ``orientation``: ImageOrientationPatient; ``spacing``: row and column
    spacing in mm; each None where missing or not finite.
    """

    path: Path
    name: str
    sop_class: str
    sop_instance: str
    series: str
    localizer: bool
    instance_number: float | None
    slice_location: float | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    phantom: bool
    pixels: PixelFormat


def read_header(path: Path, name: str) -> SliceHeader:
    """Return the header of one file. Raises UnreadableFileError; ScanError where the file cannot be opened."""
    try:
        # UIDs of anonymised sets are often no legal UIDs: no reason to warn, nothing here depends on their form
        with path.open("rb") as file, pydicom.config.disable_value_validation():
            if file.read(132)[128:] != b"DICM":
                raise UnreadableFileError(f"{name}: not a DICOM file (empty, cut or of another kind).")
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _header(dataset, path, name, file.tell())
    except PARSE_ERRORS as error:
        raise UnreadableFileError(f"{name}: the DICOM header is damaged ({type(error).__name__}).") from error
    except OSError as error:
        raise ScanError(f"{name}: cannot be opened ({error.strerror}). Check the disk and the permissions.") from error


def _header(ds: Dataset, path: Path, name: str, offset: int) -> SliceHeader:
    meta = ds.file_meta
    sop_class = UID(str(ds.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))
    spacing = _numbers(ds, "PixelSpacing", 2)
    slope, intercept = _numbers(ds, "RescaleSlope", 1), _numbers(ds, "RescaleIntercept", 1)
    instance, location = _numbers(ds, "InstanceNumber", 1), _numbers(ds, "SliceLocation", 1)
    return SliceHeader(
        path=path,
        name=name,
        sop_class=sop_class.keyword,
        sop_instance=str(ds.get("SOPInstanceUID") or ""),
        series=str(ds.get("SeriesInstanceUID") or ""),
        localizer="LOCALIZER" in _texts(ds.get("ImageType")),
        instance_number=instance[0] if instance else None,
        slice_location=location[0] if location else None,
        position=_numbers(ds, "ImagePositionPatient", 3),
        orientation=_numbers(ds, "ImageOrientationPatient", 6),
        spacing=spacing if spacing and min(spacing) > 0 else None,
        slope=slope[0] if slope else None,
        intercept=intercept[0] if intercept else None,
        phantom=ds.get("QualityControlImage") == "YES",
        pixels=_pixel_format(ds, str(meta.get("TransferSyntaxUID") or ""), offset),
    )


def _pixel_format(ds: Dataset, syntax: str, offset: int) -> PixelFormat:
    implicit, little = ds.original_encoding
    signed = ds.get("PixelRepresentation") == 1
    return PixelFormat(
        transfer_syntax=syntax,
        offset=None if syntax == DeflatedExplicitVRLittleEndian else offset,
        explicit=not implicit,
        big_endian=not little,
        rows=_integer(ds, "Rows"),
        columns=_integer(ds, "Columns"),
        samples=_integer(ds, "SamplesPerPixel"),
        photometric=str(ds.get("PhotometricInterpretation") or ""),
        frames=_integer(ds, "NumberOfFrames"),
        bits_allocated=_integer(ds, "BitsAllocated"),
        bits_stored=_integer(ds, "BitsStored"),
        high_bit=_integer(ds, "HighBit"),
        signed=signed,
        smallest=_pixel_value(ds, "SmallestImagePixelValue", signed),
        largest=_pixel_value(ds, "LargestImagePixelValue", signed),
        padding=_pixel_value(ds, "PixelPaddingValue", signed),
        padding_limit=_pixel_value(ds, "PixelPaddingRangeLimit", signed),
        lossy=ds.get("LossyImageCompression") == "01",
    )


def _texts(value: object) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(part) for part in value) if isinstance(value, Sequence) else ()


def _numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return so many finite numbers, None where the element is missing, empty, of another length or not finite."""
    try:
        value = ds.get(keyword)
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):  # no value, or text that is no number
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _integer(ds: Dataset, keyword: str) -> int | None:
    number = _numbers(ds, keyword, 1)
    return int(number[0]) if number else None


def _pixel_value(ds: Dataset, keyword: str, signed: bool) -> int | None:
    """Return a stored pixel value, which comes as bytes where the VR is implicit, and often as US though signed."""
    value = ds.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:
        value = int.from_bytes(value, "little")  # implicit VR is always little endian
    if not isinstance(value, int):
        return None
    value &= 0xFFFF
    return value - 0x10000 if signed and value >= 0x8000 else value
