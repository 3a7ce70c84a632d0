"""Enhanced multi-frame CT: one dataset a frame, as if each had come in a file of its own (PS3.3 C.7.6.16)."""

from pydicom.dataset import Dataset

from cnr_iemn.errors import ScanError

FRAME_TAGS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
MAX_FRAMES = 20_000

# functional group -> what it holds of a slice, under the names of a single-frame file
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "FrameContentSequence": ("FrameAcquisitionNumber",),
    "CTImageFrameTypeSequence": ("FrameType",),
}
# taken over as they are in the file, converted where they are looked at: damage to them refuses nothing
_UNCONVERTED = {
    "PixelMeasuresSequence": "SliceThickness",
    "CTXRayDetailsSequence": "KVP",
    "CTExposureSequence": "XRayTubeCurrentInmA",
}
_RENAMED = {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameType": "ImageType"}


def flat_frames(ds: Dataset, name: str) -> list[Dataset]:
    """Return one dataset a frame, with the frame's own values over the shared ones over the file's.

    Raises ScanError where the number of frames is missing, out of bounds or another than that of their descriptions.
    """
    try:
        count = int(ds.get("NumberOfFrames") or 0)
    except (TypeError, ValueError):
        count = 0
    own = ds.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= count <= MAX_FRAMES or len(own) != count:
        raise ScanError(
            f"{name}: NumberOfFrames must be 1 to {MAX_FRAMES:,} and equal the {len(own):,} frames that are described "
            "(5200,9230). Scan refused; export it again."
        )
    shared = next(iter(ds.get("SharedFunctionalGroupsSequence") or []), Dataset())
    common = Dataset({element.tag: element for element in ds if element.keyword not in FRAME_TAGS})
    common.update(_flattened(shared))
    frames = []
    for groups in own:
        frame = Dataset()
        frame.update(common)
        frame.update(_flattened(groups))
        frame.set_original_encoding(*ds.original_encoding)
        frame.file_meta = ds.file_meta
        frames.append(frame)
    return frames


def _flattened(groups: Dataset) -> Dataset:
    flat = Dataset()
    for group, keywords in _GROUPS.items():
        for item in (groups.get(group) or [])[:1]:
            for keyword in keywords:
                if keyword in item:
                    setattr(flat, _RENAMED.get(keyword, keyword), item[keyword].value)
    for group, keyword in _UNCONVERTED.items():
        for item in (groups.get(group) or [])[:1]:
            if keyword in item:
                flat[keyword] = item.get_item(keyword)
    return flat
