"""The lung mask as a DICOM segmentation of the source images."""

import highdicom as hd
from highdicom import seg
from pydicom.sr.codedict import codes

from cnr_iemn.dicom_export.coding import NAME, Software
from cnr_iemn.dicom_export.source_images import DicomSource

SERIES_NUMBER = 9003


def lung_segmentation(source: DicomSource, software: Software, *, method: str) -> seg.Segmentation:
    """Return the mask at the images' resolution, a frame for each slice with lung, as a new series in their study.

    Args:
        source: The scan's images, with ``lungs``.
        software: What made it.
        method: Of the lung mask.

    Raises:
        ValueError: There is no mask, or highdicom rejects a value of the source.
    """
    if source.lungs is None:
        raise ValueError("The source was read without its lung mask.")
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"{NAME} lung mask",
        family=codes.cid7162.MorphologicalOperations,
        version=software.equipment["software_versions"],
        parameters={"lungs": method},
    )
    lungs = seg.SegmentDescription(
        segment_number=1,
        segment_label="Lungs",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"{NAME} lungs",
    )
    return seg.Segmentation(
        source_images=source.images,
        pixel_array=source.lungs,
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[lungs],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        content_label="LUNGS",
        content_description="Lung mask, research use only",
        series_description=f"{NAME} lung mask",
        specific_character_set="ISO_IR 192",
        **software.equipment,
    )
