"""DICOM objects of simulated predictions: unknown values, unusual names, other patient positions."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.slice_order import TURNED
from cnr_iemn.inference.explanation import KeySlice
from cnr_iemn.stage2.ensemble import Ensemble
from tests.dicom_export.dicom_scans import dciodvfy_errors
from tests.report.pages import CALIBRATION, ENSEMBLE, N_SLICES, result_of

hd = pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")

from cnr_iemn.dicom_export.coding import Software  # noqa: E402
from cnr_iemn.dicom_export.secondary_capture import secondary_capture  # noqa: E402 - after the skip
from cnr_iemn.dicom_export.segmentation import lung_segmentation  # noqa: E402
from cnr_iemn.dicom_export.source_images import DicomSource  # noqa: E402
from cnr_iemn.dicom_export.structured_report import structured_report  # noqa: E402

SOFTWARE = Software("study", "all", "ab" * 32)
KEYS = (KeySlice(17, 8, 2.0, 0.9), KeySlice(3, 1, 0.5, 0.4))
PRONE = [-1, 0, 0, 0, -1, 0]


def source(*, orientation: list[float] | None = None, lossy: bool = False) -> DicomSource:
    images = []
    for index in range(N_SLICES):
        image = Dataset()
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "7", "Ünal^Åsa", "", "F"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2", "1.2.3", "1.2.4"
        image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
        image.StudyDate, image.StudyTime, image.Modality = "20210630", "120000.5", "CT"
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{index + 1}"
        image.Rows, image.Columns, image.SamplesPerPixel = 32, 48, 1
        image.PixelSpacing, image.SliceThickness = [0.7, 0.7], 5
        image.ImageOrientationPatient = orientation or [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-20, -30, -5.0 * index]
        image.LossyImageCompression = "01" if lossy else "00"
        if lossy:
            image.LossyImageCompressionRatio, image.LossyImageCompressionMethod = 12, "ISO_10918_1"
        images.append(image)
    return DicomSource(tuple(images), np.random.default_rng(5).random((N_SLICES, 32, 48)) < 0.3)


def written(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def texts(report: Dataset) -> dict[str, str]:
    (container,) = hd.sr.utils.find_content_items(
        report, name=hd.sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
    )
    return {str(item.ConceptNameCodeSequence[0].CodeMeaning): item.TextValue for item in container.ContentSequence}


def report_of(ensemble: Ensemble, probabilities: tuple[float, ...] = (0.05, 0.9, 0.05), **changes: object) -> Dataset:
    result = result_of(probabilities=probabilities, ensemble=ensemble, **changes)
    return structured_report(result.prediction, ensemble, KEYS, source(), SOFTWARE)


def test_unknown_values_are_reported_as_not_measured(tmp_path: Path) -> None:
    report = report_of(replace(ENSEMBLE, calibration=None), lung_litres=math.nan, findings=("Rückseite \\ z",))
    path = written(report, tmp_path / "report.dcm")
    again = hd.sr.srread(path)
    measured = [str(item.name.meaning) for item in again.content.get_image_measurement_groups()[0].get_measurements()]
    assert measured == [*(f"Model output, class {c}" for c in ENSEMBLE.classes), "Number of slices"]
    texts_by_name = texts(again)
    assert texts_by_name["Volume of the lungs"] == "not known"
    assert texts_by_name["Whether the model is undecided"] == "not known: the ensemble is not calibrated"
    assert texts_by_name["Calibration"].startswith("Probabilities are those of XGBoost on percentages, not calibrated")
    assert texts_by_name["Remark on the images as files"] == "Rückseite \\ z"
    assert "Notice on synthetic images" not in texts_by_name
    assert str(again.PatientName) == "Ünal^Åsa"
    assert dciodvfy_errors(path) == []


def test_undecided_and_calibrated_with_n_cohort_and_date() -> None:
    texts_by_name = texts(report_of(ENSEMBLE, (0.3, 0.36, 0.34)))
    assert texts_by_name["Whether the model is undecided"] == "undecided"
    assert (
        f"on {CALIBRATION.n} training scans of {CALIBRATION.cohort} on {CALIBRATION.date}"
        in texts_by_name["Calibration"]
    )
    assert texts(report_of(ENSEMBLE))["Whether the model is undecided"] == "not undecided"


def test_classes_of_any_name_can_be_reported(tmp_path: Path) -> None:
    prefix = "Community acquired pneumonia, as the radiologist of the "
    classes = ("a\\b", f"{prefix}first hospital has it", f"{prefix}second hospital has it")
    path = written(report_of(replace(ENSEMBLE, classes=classes)), tmp_path / "report.dcm")
    measured = hd.sr.srread(path).content.get_image_measurement_groups()[0].get_measurements()
    assert [item.value for item in measured[:3]] == [0.05, 0.9, 0.05]
    names = [str(item.name.meaning) for item in measured[:3]]
    assert names[0].startswith("Model output, class a b")
    assert len(set(names)) == 3
    assert names[1][:50] == names[2][:50] == f"Model output, class {prefix}"[:50]
    assert [item.name.value for item in measured[:3]] == [
        f"SIM-{hashlib.sha256(name.encode()).hexdigest()[:10]}" for name in classes
    ]
    assert dciodvfy_errors(path) == []


def test_the_slices_with_the_largest_contribution_reference_their_images(tmp_path: Path) -> None:
    path = written(report_of(ENSEMBLE), tmp_path / "report.dcm")
    _, *key_groups = hd.sr.srread(path).content.get_image_measurement_groups()
    values = [
        ([item.value for item in group.get_measurements()], group.source_images[0].referenced_sop_instance_uid)
        for group in key_groups
    ]
    assert values == [([1, 2.0, 0.9], "1.2.3.18"), ([2, 0.5, 0.4], "1.2.3.4")]


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], PRONE])
def test_a_mask_matches_its_images_in_every_patient_position(tmp_path: Path, orientation: list[float]) -> None:
    dataset = source(orientation=orientation)
    assert dataset.lungs is not None
    path = written(lung_segmentation(dataset, SOFTWARE, method="pleura"), tmp_path / "lungs.dcm")
    again = hd.seg.segread(path)
    uids = [image.SOPInstanceUID for image in dataset.images]
    laid = again.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0]
    assert np.array_equal(laid.astype(bool), dataset.lungs)
    shared = again.SharedFunctionalGroupsSequence[0]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == orientation
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.7, 0.7]
    (algorithm,) = again.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == ("CNR-IEMN lung mask", "lungs=pleura")
    assert dciodvfy_errors(path) == []


def test_a_capture_keeps_lossy_compression_and_patient_position(tmp_path: Path) -> None:
    picture = np.random.default_rng(6).integers(0, 255, (90, 120, 3), np.uint8)
    dataset = secondary_capture(picture, 17, source(orientation=PRONE, lossy=True), SOFTWARE, phantom=False)
    path = written(dataset, tmp_path / "capture.dcm")
    again = pydicom.dcmread(path)
    assert np.array_equal(again.pixel_array, picture)
    assert (again.LossyImageCompression, again.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert list(again.PatientOrientation) == ["R", "A"]
    assert again.QualityControlImage == "NO"
    assert again.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.18"
    assert dciodvfy_errors(path) == []


def test_the_device_identifier_follows_the_booster() -> None:
    assert SOFTWARE.device_uid == replace(SOFTWARE, study="other").device_uid
    assert SOFTWARE.device_uid != replace(SOFTWARE, method_sha256="cd" * 32).device_uid
    assert pydicom.uid.UID(SOFTWARE.device_uid).is_valid


def test_a_rotated_scan_is_reported() -> None:
    assert texts(report_of(ENSEMBLE, findings=(TURNED,)))["Remark on the images as files"] == TURNED
