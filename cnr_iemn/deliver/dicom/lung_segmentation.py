"""The lung mask as a DICOM segmentation on the images themselves."""

import highdicom as hd
from highdicom import seg
from pydicom.sr.codedict import codes

from cnr_iemn.deliver.dicom.software import NAME, Software
from cnr_iemn.deliver.dicom.source import DicomSource

SERIES_NUMBER = 9003


def lung_segmentation(source: DicomSource, software: Software, *, method: str) -> seg.Segmentation:
    """Return the mask at the images' full resolution, a frame for each slice with lung; a new series in their study.

    ``source``: with ``lungs``; ``method``: which made them. Raises ValueError (highdicom).
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
