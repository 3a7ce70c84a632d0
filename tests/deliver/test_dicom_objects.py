"""Objects of made-up answers and images: what is not known, what is hard to write, patients who lie otherwise."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cnr_iemn.ct.plan import TURNED
from cnr_iemn.deliver.key_slices import KeySlice
from cnr_iemn.engine.answers import scan_answers
from cnr_iemn.engine.ensembles import Ensemble
from tests.deliver.dicom_scans import dciodvfy_errors
from tests.deliver.pages import ENSEMBLE, FROZEN, N_SLICES, gone_by, slices

hd = pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install 'cnr-iemn[dicom]'")

from cnr_iemn.deliver.dicom.capture import secondary_capture  # noqa: E402 - after the skip
from cnr_iemn.deliver.dicom.lung_segmentation import lung_segmentation  # noqa: E402
from cnr_iemn.deliver.dicom.software import Software  # noqa: E402
from cnr_iemn.deliver.dicom.source import DicomSource  # noqa: E402
from cnr_iemn.deliver.dicom.structured_report import structured_report  # noqa: E402

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


def written(made: Dataset, path: Path) -> Path:
    made.save_as(path, enforce_file_format=True)
    return path


def texts(report: Dataset) -> dict[str, str]:
    (container,) = hd.sr.utils.find_content_items(
        report, name=hd.sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
    )
    return {str(item.ConceptNameCodeSequence[0].CodeMeaning): item.TextValue for item in container.ContentSequence}


def report_of(ensemble: Ensemble, probabilities: tuple[float, ...] = (0.05, 0.9, 0.05), **facts: object) -> Dataset:
    found = replace(gone_by("P001"), classes=ensemble.classes)
    (answer,) = scan_answers([slices("P001", **facts)], np.array([probabilities]), found, ensemble)
    return structured_report(answer, ensemble, KEYS, source(), SOFTWARE)


def test_what_is_not_known_is_said_not_measured(tmp_path: Path) -> None:
    report = report_of(replace(ENSEMBLE, calibration=None), lung_litres=math.nan, findings=("Rückseite \\ z",))
    path = written(report, tmp_path / "report.dcm")
    again = hd.sr.srread(path)
    measured = [str(each.name.meaning) for each in again.content.get_image_measurement_groups()[0].get_measurements()]
    assert measured == [*(f"Model output, class {c}" for c in ENSEMBLE.classes), "Number of slices"]
    said = texts(again)
    assert said["Volume of the lungs"] == "not known"
    assert said["Whether the model is undecided"] == "not known: the ensemble is not calibrated"
    assert said["Calibration"].startswith("The probabilities are the booster's own, not calibrated")
    assert said["Remark on the images as files"] == "Rückseite \\ z"
    assert "Notice on synthetic images" not in said
    assert str(again.PatientName) == "Ünal^Åsa"
    assert dciodvfy_errors(path) == []


def test_undecided_and_calibrated_with_n_cohort_and_date() -> None:
    said = texts(report_of(ENSEMBLE, (0.3, 0.36, 0.34)))
    assert said["Whether the model is undecided"] == "undecided"
    assert f"learnt on {FROZEN.n} training scans of {FROZEN.cohort} on {FROZEN.date}" in said["Calibration"]
    assert texts(report_of(ENSEMBLE))["Whether the model is undecided"] == "not undecided"


def test_classes_of_any_name_can_be_reported(tmp_path: Path) -> None:
    alike = "Community acquired pneumonia, as the radiologist of the "
    classes = ("a\\b", f"{alike}first hospital has it", f"{alike}second hospital has it")
    path = written(report_of(replace(ENSEMBLE, classes=classes)), tmp_path / "report.dcm")
    measured = hd.sr.srread(path).content.get_image_measurement_groups()[0].get_measurements()
    assert [each.value for each in measured[:3]] == [0.05, 0.9, 0.05]
    names = [str(each.name.meaning) for each in measured[:3]]
    assert names[0].startswith("Model output, class a b")
    assert len(set(names)) == 3
    assert names[1][:50] == names[2][:50] == f"Model output, class {alike}"[:50]
    assert [each.name.value for each in measured[:3]] == [
        f"SIM-{hashlib.sha256(name.encode()).hexdigest()[:10]}" for name in classes
    ]
    assert dciodvfy_errors(path) == []


def test_the_slices_that_contributed_most_are_told_with_their_images(tmp_path: Path) -> None:
    path = written(report_of(ENSEMBLE), tmp_path / "report.dcm")
    _, *shown = hd.sr.srread(path).content.get_image_measurement_groups()
    told = [
        ([each.value for each in group.get_measurements()], group.source_images[0].referenced_sop_instance_uid)
        for group in shown
    ]
    assert told == [([1, 2.0, 0.9], "1.2.3.18"), ([2, 0.5, 0.4], "1.2.3.4")]


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], PRONE])
def test_a_mask_lies_on_its_images_however_the_patient_lies(tmp_path: Path, orientation: list[float]) -> None:
    made = source(orientation=orientation)
    assert made.lungs is not None
    path = written(lung_segmentation(made, SOFTWARE, method="pleura"), tmp_path / "lungs.dcm")
    again = hd.seg.segread(path)
    uids = [image.SOPInstanceUID for image in made.images]
    laid = again.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0]
    assert np.array_equal(laid.astype(bool), made.lungs)
    shared = again.SharedFunctionalGroupsSequence[0]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == orientation
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.7, 0.7]
    (algorithm,) = again.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == ("CNR-IEMN lung mask", "lungs=pleura")
    assert dciodvfy_errors(path) == []


def test_a_capture_keeps_that_pixels_were_lost_and_how_the_patient_lies(tmp_path: Path) -> None:
    picture = np.random.default_rng(6).integers(0, 255, (90, 120, 3), np.uint8)
    made = secondary_capture(picture, 17, source(orientation=PRONE, lossy=True), SOFTWARE, phantom=False)
    path = written(made, tmp_path / "capture.dcm")
    again = pydicom.dcmread(path)
    assert np.array_equal(again.pixel_array, picture)
    assert (again.LossyImageCompression, again.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert list(again.PatientOrientation) == ["R", "A"]
    assert again.QualityControlImage == "NO"
    assert again.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.18"
    assert dciodvfy_errors(path) == []


def test_the_same_booster_is_the_same_device() -> None:
    assert SOFTWARE.device_uid == replace(SOFTWARE, study="other").device_uid
    assert SOFTWARE.device_uid != replace(SOFTWARE, booster_sha256="cd" * 32).device_uid
    assert pydicom.uid.UID(SOFTWARE.device_uid).is_valid


def test_a_turned_scan_is_told() -> None:
    assert texts(report_of(ENSEMBLE, findings=(TURNED,)))["Remark on the images as files"] == TURNED
