"""The answer as a DICOM structured report: TID 1500 in a Comprehensive 3D SR, unverified."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom.sr.codedict import codes

from cnr_iemn.deliver.dicom.software import NAME, USE, Software, class_code, coding_scheme, own_code
from cnr_iemn.deliver.dicom.source import DicomSource
from cnr_iemn.deliver.key_slices import KeySlice
from cnr_iemn.deliver.scan_text import sentence
from cnr_iemn.engine.answers import calibration_line, notice_of
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.report.pages import CLOSED_SET

SERIES_NUMBER = 9001
_ONE = codes.UCUM.NoUnits


def structured_report(
    answer: Mapping[str, Any], ensemble: Ensemble, keys: Sequence[KeySlice], source: DicomSource, software: Software
) -> sr.Comprehensive3DSR:
    """Return the report of one scan: a new series in the study of its images, all of which are its evidence.

    A class is a measurement of the model's output, with a code of the project's own, or text; never a coded finding.
    ``answer``: of ``scan_answers``; ``keys``: the slices that contributed most. Raises ValueError (highdicom).
    """
    observer = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=software.device_uid,
            name=NAME,
            manufacturer_name=NAME,
            model_name=f"{NAME} {software.equipment['software_versions']}",
            serial_number=software.booster_sha256,
        ),
    )
    measured = [_whole_scan(answer, source, software), *_key_slices(answer, keys, source, software)]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=measured,
    )
    content[0].ContentSequence.append(_texts(answer, ensemble))
    return sr.Comprehensive3DSR(
        evidence=source.images,
        content=content,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        is_complete=True,
        is_verified=False,
        series_description=f"{NAME} answer, unverified",
        coding_schemes=[coding_scheme()],
        specific_character_set="ISO_IR 192",
        **software.equipment,
    )


def _whole_scan(
    answer: Mapping[str, Any], source: DicomSource, software: Software
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return what was measured on all slices: probabilities, number of slices, volume of the lungs."""
    measurements = [
        sr.Measurement(class_code(name, calibrated=calibrated), float(value), _ONE)
        for calibrated, values in ((False, answer["probabilities"]), (True, answer["calibrated"] or {}))
        for name, value in values.items()
    ]
    measurements.append(sr.Measurement(own_code("SLICES", "Number of slices"), answer["n_slices"], _ONE))
    litres = answer["lung_litres"]
    if not math.isnan(litres):
        lungs = sr.FindingSite(codes.SCT.Lung, laterality=codes.SCT.Bilateral)
        measurements.append(sr.Measurement(codes.SCT.Volume, float(litres), _LITRE, finding_sites=[lungs]))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=f"{NAME} scan"),
        algorithm_id=software.algorithm,
        measurements=measurements,
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(image) for image in source.images],
    )


_LITRE = sr.CodedConcept("L", "UCUM", "liter")


def _key_slices(
    answer: Mapping[str, Any], keys: Sequence[KeySlice], source: DicomSource, software: Software
) -> Iterator[sr.MeasurementsAndQualitativeEvaluations]:
    """Give a group for each slice that contributed most, which refers to its image."""
    for number, key in enumerate(keys, 1):
        yield sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=hd.UID(), identifier=f"{NAME} slice {key.index + 1} of {answer['n_slices']}, contributed most"
            ),
            algorithm_id=software.algorithm,
            measurements=[
                sr.Measurement(own_code("RANK", "Rank among slices that contributed most"), number, _ONE),
                sr.Measurement(own_code("LOGODDS", "Contribution of its slices, log-odds"), key.contribution, _ONE),
                sr.Measurement(own_code("MEAN", "Mean output of networks for the slice"), key.probability, _ONE),
            ],
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source.images[key.index])],
        )


def _texts(answer: Mapping[str, Any], ensemble: Ensemble) -> sr.ContainerContentItem:
    """Return what is said in words, in the template's container for evaluations (rows 12 and 14)."""
    container = sr.ContainerContentItem(
        name=sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations"),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    container.ContentSequence = sr.ContentSequence(
        [
            sr.TextContentItem(name=name, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
            for name, text in _said(answer, ensemble)
        ]
    )
    return container


def _said(answer: Mapping[str, Any], ensemble: Ensemble) -> Iterator[tuple[sr.CodedConcept, str]]:
    yield own_code("USE", "Permitted use"), f"{USE}."
    notice = notice_of(answer, ensemble)
    if notice is not None:
        yield own_code("NOTICE", "Notice on synthetic images"), notice
    yield own_code("SENTENCE", "Answer of the model in a sentence"), sentence(answer, ensemble)
    decided = {None: "not known: the ensemble is not calibrated", True: "undecided", False: "not undecided"}
    yield own_code("UNDECIDED", "Whether the model is undecided"), decided[answer["undecided"]]
    yield own_code("CALIBRATION", "Calibration"), calibration_line(ensemble)
    yield own_code("CLOSED-SET", "Closed set of classes"), CLOSED_SET.format(first=ensemble.classes[0])
    if math.isnan(answer["lung_litres"]):
        yield own_code("NO-VOLUME", "Volume of the lungs"), "not known"
    for text in answer["findings"]:
        yield own_code("REMARK", "Remark on the images as files"), text
    meaning = "Contributions and slices are model sensitivity, not lesion or cause."
    yield own_code("SENSITIVITY", "Meaning of contributions"), meaning
