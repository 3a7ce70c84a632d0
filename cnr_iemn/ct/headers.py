"""One DICOM file's header as plain, checked values. No pixel is read."""

import os
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, AllTransferSyntaxes, CTImageStorage, DeflatedExplicitVRLittleEndian

from cnr_iemn.ct.acquisition import ACQUISITION_KEYWORDS, Acquisition, slice_acquisition
from cnr_iemn.ct.deflated import GROUP_LENGTH, MAX_FILE_BYTES, read_deflated
from cnr_iemn.ct.elements import CHARACTER_SET, PARSE_ERRORS, Elements, integer, numbers, texts
from cnr_iemn.ct.frames import FRAME_TAGS, flat_frames
from cnr_iemn.ct.pixel_format import Encoding, PixelFormat, pixel_format
from cnr_iemn.ct.usual import usual_header
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
_WANTED = {int(tag) for tag in _TAGS} | {CHARACTER_SET}
_FIRST_BYTES = 2**14  # hold the usual header
_USUAL_SYNTAXES = {
    str(syntax)
    for syntax in AllTransferSyntaxes
    if not syntax.is_implicit_VR and syntax.is_little_endian and not syntax.is_deflated
}


_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""How a dataset begins that lacks the preamble: groups 0002 and 0008, little endian."""


class UnreadableFileError(ScanError):
    """The file is empty, no DICOM, or its header is damaged."""


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
            if file.bytes <= MAX_FILE_BYTES:
                usual = _usual(file.read(_FIRST_BYTES), path, name)
                if usual is not None:
                    return [usual]
                file.seek(0)
            return _any_headers(file, path, name)
    except PARSE_ERRORS as error:
        raise UnreadableFileError(f"{name}: the DICOM header is damaged ({type(error).__name__}).") from error
    except OSError as error:
        raise ScanError(f"{name}: cannot be opened ({error.strerror}). Check the disk and the permissions.") from error


def _usual(head: bytes, path: Path, name: str) -> SliceHeader | None:
    """Return the header of the usual slice, None where the file is another one."""
    found = usual_header(head, _WANTED)
    if found is None:
        return None
    syntax, elements = str(Elements.explicit(found.meta).get("TransferSyntaxUID")), Elements.explicit(found.elements)
    if syntax not in _USUAL_SYNTAXES or elements.get("SOPClassUID") != CTImageStorage:
        return None
    return _header(Encoding(syntax, True, False), elements, "CTImageStorage", path, name, found.offset)


def _any_headers(file: "_Bounded", path: Path, name: str) -> list[SliceHeader]:
    """Return the headers of any file, with pydicom."""
    start = file.read(144)
    if start[128:132] != b"DICM":
        if start[:2] in _FIRST_GROUPS:
            raise UnreadableFileError(
                f"{name}: begins like a DICOM dataset, but without the preamble and file meta information that say how "
                "to read it. Export the scan again as DICOM files."
            )
        raise UnreadableFileError(f"{name}: not a DICOM file (empty, cut or of another kind).")
    if file.bytes > MAX_FRAMES_BYTES:
        raise ScanError(f"{name}: {file.bytes:,} bytes, more than any CT file. Remove it from the folder.")
    told = start[132:140] == GROUP_LENGTH
    meta_bytes = int.from_bytes(start[140:144], "little") if told else 0  # of (0002,xxxx)
    if DeflatedExplicitVRLittleEndian.encode() in file.read(min(max(meta_bytes, 1024), MAX_META_BYTES)):
        return _headers(read_deflated(path, name, _TAGS), None, path=path, name=name)
    if meta_bytes > MAX_META_BYTES:
        raise UnreadableFileError(f"{name}: {meta_bytes:,} bytes of file meta information make no sense.")
    file.seek(0)
    return _headers(*_parsed(file), path=path, name=name)


def _parsed(file: "_Bounded") -> tuple[Dataset, int]:
    """Return the header and where the pixels begin. It is parsed in memory, which is faster, unless it is very long."""
    head = BytesIO(file.read(_HEAD_BYTES))
    try:
        dataset = pydicom.dcmread(head, stop_before_pixels=True, specific_tags=_TAGS)
    except PARSE_ERRORS:
        if file.bytes <= _HEAD_BYTES:
            raise
    else:
        if file.bytes <= _HEAD_BYTES or head.tell() + _LEAST_REST < _HEAD_BYTES:
            return dataset, head.tell()
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS), file.tell()


class _Bounded(BufferedReader):
    """A file of which never more is asked than it has: an element with a damaged length would reserve gigabytes.

    ``bytes``: its size.
    """

    def __init__(self, path: Path) -> None:
        file = FileIO(path)
        super().__init__(file)
        self.bytes = os.fstat(file.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, self.bytes) if size else size)


def _headers(ds: Dataset, offset: int | None, *, path: Path, name: str) -> list[SliceHeader]:
    sop_class = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")).keyword
    if sop_class == "CTImageStorage" and path.stat().st_size > MAX_FILE_BYTES:
        raise ScanError(f"{name}: more than {MAX_FILE_BYTES:,} bytes, too large for one slice. Scan refused.")
    implicit, little = ds.original_encoding
    encoding = Encoding(str(ds.file_meta.get("TransferSyntaxUID") or ""), not implicit, not little)
    if sop_class not in ENHANCED_CT:
        return [_header(encoding, Elements.of(ds), sop_class, path, name, offset)]
    frames = flat_frames(ds, name)
    return [
        replace(
            _header(encoding, Elements.of(frame), sop_class, path, f"{name} frame {index + 1}", offset), frame=index
        )
        for index, frame in enumerate(frames)
    ]


def _header(
    encoding: Encoding, elements: Elements, sop_class: str, path: Path, name: str, offset: int | None
) -> SliceHeader:
    spacing = numbers(elements, "PixelSpacing", 2, most=_MOST_SPACING_MM)
    slope, intercept = numbers(elements, "RescaleSlope", 1), numbers(elements, "RescaleIntercept", 1)
    instance, location = numbers(elements, "InstanceNumber", 1), numbers(elements, "SliceLocation", 1)
    pixels = pixel_format(encoding, elements, enhanced=sop_class in ENHANCED_CT, offset=offset)
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
