"""The prediction as a DICOM structured report: TID 1500 in a Comprehensive 3D SR, unverified."""

import math
from collections.abc import Iterator, Sequence

import highdicom as hd
from highdicom import sr
from pydicom.sr.codedict import codes

from cnr_iemn.constants import CLOSED_SET
from cnr_iemn.dicom_export.coding import NAME, USE, Software, class_code, coding_scheme, private_code
from cnr_iemn.dicom_export.source_images import DicomSource
from cnr_iemn.inference.explanation import KeySlice
from cnr_iemn.inference.scan_result import ScanPrediction, calibration_sentence, notice_of, result_sentence
from cnr_iemn.stage2.ensemble import Ensemble

SERIES_NUMBER = 9001
_NO_UNITS = codes.UCUM.NoUnits


def structured_report(
    prediction: ScanPrediction, ensemble: Ensemble, keys: Sequence[KeySlice], source: DicomSource, software: Software
) -> sr.Comprehensive3DSR:
    """Return the report of a scan as a new series in the study of its images, all of which are its evidence.

    Classes are measurements of the model's output with private codes, or text; never coded findings.

    Args:
        prediction: The scan's entry in predictions.json.
        ensemble: Which made the prediction.
        keys: The key slices.
        source: The scan's images.
        software: What made it.

    Raises:
        ValueError: highdicom rejects a value of the source.
    """
    observer = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=software.device_uid,
            name=NAME,
            manufacturer_name=NAME,
            model_name=f"{NAME} {software.equipment['software_versions']}",
            serial_number=software.method_sha256,
        ),
    )
    groups = [_scan_group(prediction, source, software), *_key_slice_groups(prediction, keys, source, software)]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    content[0].ContentSequence.append(_text_container(prediction, ensemble))
    return sr.Comprehensive3DSR(
        evidence=source.images,
        content=content,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        is_complete=True,
        is_verified=False,
        series_description=f"{NAME} prediction, unverified",
        coding_schemes=[coding_scheme()],
        specific_character_set="ISO_IR 192",
        **software.equipment,
    )


def _scan_group(
    prediction: ScanPrediction, source: DicomSource, software: Software
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the measurements of the whole scan: probabilities, number of slices, lung volume."""
    measurements = [
        sr.Measurement(class_code(name, calibrated=calibrated), float(value), _NO_UNITS)
        for calibrated, values in ((False, prediction["probabilities"]), (True, prediction["calibrated"] or {}))
        for name, value in values.items()
    ]
    measurements.append(sr.Measurement(private_code("SLICES", "Number of slices"), prediction["n_slices"], _NO_UNITS))
    litres = prediction["lung_litres"]
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


def _key_slice_groups(
    prediction: ScanPrediction, keys: Sequence[KeySlice], source: DicomSource, software: Software
) -> Iterator[sr.MeasurementsAndQualitativeEvaluations]:
    """Yield a measurement group for each key slice, with a reference to its image."""
    for rank, key in enumerate(keys, 1):
        reason = "highest probability" if key.contribution is None else "contributed most"
        values = [
            ("RANK", "Rank among the key slices", float(rank)),
            ("LOGODDS", "Contribution of its group of slices, log-odds", key.contribution),
            ("MEAN", "Mean output of the networks for the slice", key.probability),
        ]
        yield sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=hd.UID(), identifier=f"{NAME} slice {key.index + 1} of {prediction['n_slices']}, {reason}"
            ),
            algorithm_id=software.algorithm,
            measurements=[
                sr.Measurement(private_code(value, meaning), number, _NO_UNITS)
                for value, meaning, number in values
                if number is not None
            ],
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source.images[key.index])],
        )


def _text_container(prediction: ScanPrediction, ensemble: Ensemble) -> sr.ContainerContentItem:
    """Return the texts, in the template's container for qualitative evaluations (rows 12 and 14)."""
    container = sr.ContainerContentItem(
        name=sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations"),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    container.ContentSequence = sr.ContentSequence(
        [
            sr.TextContentItem(name=name, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
            for name, text in _texts(prediction, ensemble)
        ]
    )
    return container


def _texts(prediction: ScanPrediction, ensemble: Ensemble) -> Iterator[tuple[sr.CodedConcept, str]]:
    yield private_code("USE", "Permitted use"), f"{USE}."
    notice = notice_of(prediction, ensemble)
    if notice is not None:
        yield private_code("NOTICE", "Notice on synthetic images"), notice
    yield private_code("SENTENCE", "Prediction of the model in a sentence"), result_sentence(prediction, ensemble)
    states = {None: "not known: the ensemble is not calibrated", True: "undecided", False: "not undecided"}
    yield private_code("UNDECIDED", "Whether the model is undecided"), states[prediction["undecided"]]
    yield private_code("CALIBRATION", "Calibration"), calibration_sentence(ensemble)
    yield private_code("CLOSED-SET", "Closed set of classes"), CLOSED_SET.format(first=ensemble.classes[0])
    if math.isnan(prediction["lung_litres"]):
        yield private_code("NO-VOLUME", "Volume of the lungs"), "not known"
    for text in prediction["findings"]:
        yield private_code("REMARK", "Remark on the images as files"), text
    meaning = "Contributions and slices are model sensitivity, not lesion or cause."
    yield private_code("SENSITIVITY", "Meaning of contributions"), meaning
