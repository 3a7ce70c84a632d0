"""One DICOM file's header as plain, checked values. No pixel is read."""

from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from cnr_iemn.ct.io.acquisition import KEYWORDS, Acquisition, PassAttributes, pass_attributes, slice_acquisition
from cnr_iemn.ct.io.dicom_file import MAX_FILE_BYTES, PARSE_ERRORS, Elements, UnreadableFileError, read_elements
from cnr_iemn.errors import RefusalCode, ScanError

ENHANCED_CT = ("EnhancedCTImageStorage", "LegacyConvertedEnhancedCTImageStorage")
CT_CLASSES = ("CTImageStorage", *ENHANCED_CT)
OTHER_SCANS = (
    *("MRImageStorage", "EnhancedMRImageStorage", "EnhancedMRColorImageStorage", "NuclearMedicineImageStorage"),
    *("PositronEmissionTomographyImageStorage", "EnhancedPETImageStorage", "ComputedRadiographyImageStorage"),
    *("DigitalXRayImageStorageForPresentation", "DigitalXRayImageStorageForProcessing"),
)
"""What somebody may take for a scan, where it lies alone. Reports, masks and captures lie beside one."""
MAX_FRAMES = 20_000
_MAX_POSITION_MM, _MAX_SPACING_MM = 10_000.0, 100.0  # beyond, the element is damaged or holds something else
_FRAME_KEYWORDS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber"),
    *("ConvolutionKernel", "ImageType", "InstanceNumber", "SliceLocation", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SmallestImagePixelValue"),
    *("LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("LossyImageCompression", "QualityControlImage"),
    *KEYWORDS,
    *_FRAME_KEYWORDS,
)
_TAGS: list[int | str] = [Tag(keyword) for keyword in _KEYWORDS]

# functional group (PS3.3, C.7.6.16) -> what it holds of a slice, under the names of a single-frame file
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "FrameContentSequence": ("FrameAcquisitionNumber", "TemporalPositionIndex"),
    "CTImageFrameTypeSequence": ("FrameType",),
}
# copied as they are in the file, converted where they are looked at: damage to them refuses nothing
_RAW = {
    "PixelMeasuresSequence": "SliceThickness",
    "CTXRayDetailsSequence": "KVP",
    "CTExposureSequence": "XRayTubeCurrentInmA",
    "CTPositionSequence": "TableHeight",
    "CardiacSynchronizationSequence": "NominalPercentageOfCardiacPhase",
}
_SINGLE_FRAME_NAMES = {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameType": "ImageType"}


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores its pixels; None where the header does not say.

    Attributes:
        offset: Bytes before Pixel Data in the file, None where the file is deflated.
        enhanced: Of a multi-frame class.
        explicit: The VR is.
        smallest, largest: The file's own statement of its stored range (0028,0106/0107).
        padding: Stored value outside the field of view (0028,0120), up to ``padding_limit`` (0028,0121).
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

    @property
    def value_range(self) -> tuple[int, int]:
        """Lowest and highest value of BitsStored."""
        bits = self.bits_stored or 16
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if self.signed else (0, (1 << bits) - 1)

    @property
    def padding_range(self) -> tuple[int, int] | None:
        """Lowest and highest padding (0028,0120 to 0028,0121), None where there is none."""
        if self.padding is None:
            return None
        limit = self.padding if self.padding_limit is None else self.padding_limit
        return min(self.padding, limit), max(self.padding, limit)


@dataclass(frozen=True)
class SliceHeader:
    """One slice: a file, or a frame of one. A value is None where it is missing, not finite or beyond any scanner.

    Attributes:
        frame: Index within the file, 0 in a single-frame one.
        name: Scan and file, for messages.
        sop_class: Its keyword, or ''.
        position: ImagePositionPatient in mm.
        orientation: ImageOrientationPatient.
        spacing: Row and column spacing in mm.
        acquisition: How it was taken; no pixel depends on it.
    """

    path: Path
    frame: int
    name: str
    sop_class: str
    sop_instance: str
    series: str
    series_number: int | None
    acquisition_number: int | None
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
    acquisition: Acquisition
    pass_attributes: PassAttributes
    pixels: PixelFormat


def read_headers(path: Path, name: str) -> list[SliceHeader]:
    """Return the header of each frame of one file; of a file of another kind than CT, one that says which.

    ``name``: what messages call the file.

    Raises:
        UnreadableFileError: It is no DICOM file or damaged.
        ScanError: It cannot be opened or is too large.
    """
    try:
        with disable_value_validation():  # UIDs of anonymised sets are often illegal; nothing depends on their form
            ds, offset = read_elements(path, name, _TAGS)
            sop_class = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")).keyword
            if sop_class == "CTImageStorage" and path.stat().st_size > MAX_FILE_BYTES:
                raise ScanError(
                    RefusalCode.TOO_LARGE,
                    f"{name}: more than {MAX_FILE_BYTES:,} bytes, too large for one slice. Scan refused.",
                )
            if sop_class not in ENHANCED_CT:
                return [_header(ds, sop_class, path, name, offset)]
            frames = enumerate(_flat_frames(ds, name))
            return [replace(_header(ds, sop_class, path, f"{name} frame {k + 1}", offset), frame=k) for k, ds in frames]
    except PARSE_ERRORS as error:
        raise UnreadableFileError(
            RefusalCode.DAMAGED_FILE, f"{name}: the DICOM header is damaged ({type(error).__name__})."
        ) from error


def _header(ds: Dataset, sop_class: str, path: Path, name: str, offset: int | None) -> SliceHeader:
    elements = Elements(ds)
    spacing = elements.numbers("PixelSpacing", 2, maximum=_MAX_SPACING_MM)
    pixels = _pixel_format(ds, elements, enhanced=sop_class in ENHANCED_CT, offset=offset)
    return SliceHeader(
        path=path,
        frame=0,
        name=name,
        sop_class=sop_class,
        sop_instance=elements.text("SOPInstanceUID"),
        series=elements.text("SeriesInstanceUID"),
        series_number=elements.integer("SeriesNumber"),
        acquisition_number=elements.integer("AcquisitionNumber"),
        kernel="/".join(elements.texts("ConvolutionKernel")),
        localizer="LOCALIZER" in elements.texts("ImageType"),
        instance_number=elements.number("InstanceNumber"),
        slice_location=elements.number("SliceLocation"),
        position=elements.numbers("ImagePositionPatient", 3, maximum=_MAX_POSITION_MM),
        orientation=elements.numbers("ImageOrientationPatient", 6),
        spacing=spacing if spacing and min(spacing) > 0 else None,
        slope=elements.number("RescaleSlope"),
        intercept=elements.number("RescaleIntercept"),
        phantom=elements.get("QualityControlImage") == "YES",
        acquisition=slice_acquisition(
            elements,
            transfer_syntax=pixels.transfer_syntax,
            bits_stored=pixels.bits_stored,
            header_bytes=offset,
            enhanced=pixels.enhanced,
        ),
        pass_attributes=pass_attributes(elements),
        pixels=pixels,
    )


def _pixel_format(ds: Dataset, elements: Elements, *, enhanced: bool, offset: int | None) -> PixelFormat:
    implicit, little_endian = ds.original_encoding
    signed = elements.get("PixelRepresentation") == 1
    return PixelFormat(
        transfer_syntax=str(ds.file_meta.get("TransferSyntaxUID") or ""),
        offset=offset,
        enhanced=enhanced,
        explicit=not implicit,
        big_endian=not little_endian,
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        samples=elements.integer("SamplesPerPixel"),
        photometric=elements.text("PhotometricInterpretation"),
        frames=elements.integer("NumberOfFrames"),
        bits_allocated=elements.integer("BitsAllocated"),
        bits_stored=elements.integer("BitsStored"),
        high_bit=elements.integer("HighBit"),
        signed=signed,
        smallest=elements.pixel_value("SmallestImagePixelValue", signed),
        largest=elements.pixel_value("LargestImagePixelValue", signed),
        padding=elements.pixel_value("PixelPaddingValue", signed),
        padding_limit=elements.pixel_value("PixelPaddingRangeLimit", signed),
        lossy=elements.get("LossyImageCompression") == "01",
    )


def _flat_frames(ds: Dataset, name: str) -> list[Dataset]:
    """Return one dataset a frame of an enhanced CT, as if each had come in a file of its own.

    Raises ScanError where the number of frames is missing, out of bounds or another than that of their descriptions.
    """
    try:
        count = int(ds.get("NumberOfFrames") or 0)
    except (TypeError, ValueError):
        count = 0
    frame_groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= count <= MAX_FRAMES or len(frame_groups) != count:
        raise ScanError(
            RefusalCode.DAMAGED_HEADER,
            f"{name}: NumberOfFrames must be 1 to {MAX_FRAMES:,} and equal the {len(frame_groups):,} frames that are "
            "described (5200,9230). Scan refused; export it again.",
        )
    shared = next(iter(ds.get("SharedFunctionalGroupsSequence") or []), Dataset())
    common = Dataset({element.tag: element for element in ds if element.keyword not in _FRAME_KEYWORDS})
    common.update(_flattened(shared))
    frames = []
    for groups in frame_groups:
        frame = Dataset()
        frame.update(common)
        frame.update(_flattened(groups))
        frame.set_original_encoding(*ds.original_encoding, ds.original_character_set)
        frame.file_meta = ds.file_meta
        frames.append(frame)
    return frames


def _flattened(groups: Dataset) -> Dataset:
    flat = Dataset()
    for group, keywords in _GROUPS.items():
        for item in (groups.get(group) or [])[:1]:
            for keyword in keywords:
                if keyword in item:
                    setattr(flat, _SINGLE_FRAME_NAMES.get(keyword, keyword), item[keyword].value)
    for group, keyword in _RAW.items():
        for item in (groups.get(group) or [])[:1]:
            if keyword in item:
                flat[keyword] = item.get_item(keyword)
    return flat
