"""One DICOM file's header as plain, checked values. No pixel is read."""

from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cnr_iemn.ct.acquisition import ACQUISITION_KEYWORDS, Acquisition, slice_acquisition
from cnr_iemn.ct.deflated import GROUP_LENGTH, MAX_FILE_BYTES, read_deflated
from cnr_iemn.ct.elements import PARSE_ERRORS, Elements, integer, numbers, pixel_value, texts
from cnr_iemn.ct.frames import FRAME_TAGS, flat_frames
from cnr_iemn.errors import ScanError

ENHANCED_CT = ("EnhancedCTImageStorage", "LegacyConvertedEnhancedCTImageStorage")
CT_CLASSES = ("CTImageStorage", *ENHANCED_CT)
OTHER_SCANS = (
    "MRImageStorage",
    "EnhancedMRImageStorage",
    "EnhancedMRColorImageStorage",
    "PositronEmissionTomographyImageStorage",
    "EnhancedPETImageStorage",
    "NuclearMedicineImageStorage",
    "ComputedRadiographyImageStorage",
    "DigitalXRayImageStorageForPresentation",
    "DigitalXRayImageStorageForProcessing",
)
"""What somebody may take for a scan to be answered, where it lies alone. Reports, masks and captures lie beside one."""
MAX_META_BYTES = 2**16
_HEAD_BYTES, _LEAST_REST = 2**17, 64  # read at once; what must be left of it, or the header may go on
MAX_FRAMES_BYTES = 2**31
"""Of a multi-frame file; one with a single slice may have MAX_FILE_BYTES."""

_MOST_POSITION_MM, _MOST_SPACING_MM = 10_000.0, 100.0  # beyond, the element is damaged or holds something else

_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "ConvolutionKernel",
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
    *ACQUISITION_KEYWORDS,
    *FRAME_TAGS,
]
_TAGS: list[int | str] = [Tag(keyword) for keyword in _KEYWORDS]


_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""How a dataset begins that lacks the preamble: groups 0002 and 0008, little endian."""


class UnreadableFileError(ScanError):
    """The file is empty, no DICOM, or its header is damaged."""


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores its pixels; None where the header does not say.

    ``smallest``, ``largest``: the file's own statement of its stored range (0028,0106/0107). ``padding``: stored value
    outside the field of view (0028,0120), up to ``padding_limit`` (0028,0121). ``offset``: bytes before Pixel Data in
    the file, None where the file is deflated. ``enhanced``: of a multi-frame class. ``explicit``: the VR is;
    ``big_endian``: the byte order.
    """

    transfer_syntax: str
    offset: int | None
    enhanced: bool
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
    """One slice: a file, or a frame of one. ``name``: scan and file, for messages. ``sop_class``: its keyword or ''.

    ``frame``: index within the file, 0 in a single-frame one.
    ``position``: ImagePositionPatient in mm; ``orientation``: ImageOrientationPatient; ``spacing``: row and column
    spacing in mm; each None where missing, not finite or longer than a scanner. ``taken``: how; no pixel depends on it.
    """

    path: Path
    frame: int
    name: str
    sop_class: str
    sop_instance: str
    series: str
    series_number: int | None
    acquisition: int | None
    kernel: str
    localizer: bool
    instance_number: float | None
    slice_location: float | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    phantom: bool
    taken: Acquisition
    pixels: PixelFormat


def read_headers(path: Path, name: str) -> list[SliceHeader]:
    """Return the header of each frame of one file; of a file of another kind than CT, one that says which.

    Raises UnreadableFileError; ScanError where the file cannot be opened or is too large.
    """
    try:
        # UIDs of anonymised sets are often no legal UIDs: no reason to warn, nothing here depends on their form
        with _Bounded(path) as file, pydicom.config.disable_value_validation():
            start = file.read(144)
            if start[128:132] != b"DICM":
                if start[:2] in _FIRST_GROUPS:
                    raise UnreadableFileError(
                        f"{name}: begins like a DICOM dataset, but without the preamble and file meta information that "
                        "say how to read it. Export the scan again as DICOM files."
                    )
                raise UnreadableFileError(f"{name}: not a DICOM file (empty, cut or of another kind).")
            size = path.stat().st_size
            if size > MAX_FRAMES_BYTES:
                raise ScanError(f"{name}: {size:,} bytes, more than any CT file. Remove it from the folder.")
            told = start[132:140] == GROUP_LENGTH
            meta_bytes = int.from_bytes(start[140:144], "little") if told else 0  # of (0002,xxxx)
            if DeflatedExplicitVRLittleEndian.encode() in file.read(min(max(meta_bytes, 1024), MAX_META_BYTES)):
                return _headers(read_deflated(path, name, _TAGS), None, path=path, name=name)
            if meta_bytes > MAX_META_BYTES:
                raise UnreadableFileError(f"{name}: {meta_bytes:,} bytes of file meta information make no sense.")
            file.seek(0)
            return _headers(*_parsed(file, size), path=path, name=name)
    except PARSE_ERRORS as error:
        raise UnreadableFileError(f"{name}: the DICOM header is damaged ({type(error).__name__}).") from error
    except OSError as error:
        raise ScanError(f"{name}: cannot be opened ({error.strerror}). Check the disk and the permissions.") from error


def _parsed(file: BufferedReader, size: int) -> tuple[Dataset, int]:
    """Return the header and where the pixels begin. It is parsed in memory, which is faster, unless it is very long."""
    head = BytesIO(file.read(_HEAD_BYTES))
    try:
        dataset = pydicom.dcmread(head, stop_before_pixels=True, specific_tags=_TAGS)
    except PARSE_ERRORS:
        if size <= _HEAD_BYTES:
            raise
    else:
        if size <= _HEAD_BYTES or head.tell() + _LEAST_REST < _HEAD_BYTES:
            return dataset, head.tell()
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS), file.tell()


class _Bounded(BufferedReader):
    """A file of which never more is asked than it has: an element with a damaged length would reserve gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._bytes = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, self._bytes) if size else size)


def _headers(ds: Dataset, offset: int | None, *, path: Path, name: str) -> list[SliceHeader]:
    sop_class = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")).keyword
    if sop_class == "CTImageStorage" and path.stat().st_size > MAX_FILE_BYTES:
        raise ScanError(f"{name}: more than {MAX_FILE_BYTES:,} bytes, too large for one slice. Scan refused.")
    if sop_class not in ENHANCED_CT:
        return [_header(ds, sop_class, path, name, offset)]
    frames = flat_frames(ds, name)
    return [
        replace(_header(frame, sop_class, path, f"{name} frame {index + 1}", offset), frame=index)
        for index, frame in enumerate(frames)
    ]


def _header(ds: Dataset, sop_class: str, path: Path, name: str, offset: int | None) -> SliceHeader:
    elements = Elements(ds)
    spacing = numbers(elements, "PixelSpacing", 2, most=_MOST_SPACING_MM)
    slope, intercept = numbers(elements, "RescaleSlope", 1), numbers(elements, "RescaleIntercept", 1)
    instance, location = numbers(elements, "InstanceNumber", 1), numbers(elements, "SliceLocation", 1)
    pixels = _pixel_format(ds, elements, sop_class, offset)
    return SliceHeader(
        path=path,
        frame=0,
        name=name,
        sop_class=sop_class,
        sop_instance=str(elements.get("SOPInstanceUID") or ""),
        series=str(elements.get("SeriesInstanceUID") or ""),
        series_number=integer(elements, "SeriesNumber"),
        acquisition=integer(elements, "AcquisitionNumber"),
        kernel="/".join(texts(elements.get("ConvolutionKernel"))),
        localizer="LOCALIZER" in texts(elements.get("ImageType")),
        instance_number=instance[0] if instance else None,
        slice_location=location[0] if location else None,
        position=numbers(elements, "ImagePositionPatient", 3, most=_MOST_POSITION_MM),
        orientation=numbers(elements, "ImageOrientationPatient", 6),
        spacing=spacing if spacing and min(spacing) > 0 else None,
        slope=slope[0] if slope else None,
        intercept=intercept[0] if intercept else None,
        phantom=elements.get("QualityControlImage") == "YES",
        taken=slice_acquisition(
            elements,
            transfer_syntax=pixels.transfer_syntax,
            bits_stored=pixels.bits_stored,
            header_bytes=offset,
            enhanced=pixels.enhanced,
        ),
        pixels=pixels,
    )


def _pixel_format(ds: Dataset, elements: Elements, sop_class: str, offset: int | None) -> PixelFormat:
    implicit, little = ds.original_encoding
    signed = elements.get("PixelRepresentation") == 1
    return PixelFormat(
        transfer_syntax=str(ds.file_meta.get("TransferSyntaxUID") or ""),
        offset=offset,
        enhanced=sop_class in ENHANCED_CT,
        explicit=not implicit,
        big_endian=not little,
        rows=integer(elements, "Rows"),
        columns=integer(elements, "Columns"),
        samples=integer(elements, "SamplesPerPixel"),
        photometric=str(elements.get("PhotometricInterpretation") or ""),
        frames=integer(elements, "NumberOfFrames"),
        bits_allocated=integer(elements, "BitsAllocated"),
        bits_stored=integer(elements, "BitsStored"),
        high_bit=integer(elements, "HighBit"),
        signed=signed,
        smallest=pixel_value(elements, "SmallestImagePixelValue", signed),
        largest=pixel_value(elements, "LargestImagePixelValue", signed),
        padding=pixel_value(elements, "PixelPaddingValue", signed),
        padding_limit=pixel_value(elements, "PixelPaddingRangeLimit", signed),
        lossy=elements.get("LossyImageCompression") == "01",
    )
