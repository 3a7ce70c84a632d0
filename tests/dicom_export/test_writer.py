"""DICOM files of predictions: valid by dciodvfy, in the patient's study, with the values of predictions.json."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.read_options import ReadOptions
from tests.dicom_export.dicom_scans import dciodvfy_errors, edited, phantoms
from tests.pipeline import MODELS, ROOT
from tests.planted import found_in, leaks

pytestmark = pytest.mark.slow

hd = pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")

DICOM = ("dicom=true", "identify=true")
SECRET = "PLANTEDNAME"  # of one component: highdicom warns of such, with the name in the warning
FILES = ("report.dcm", "capture.dcm", "lungs.dcm")
WRITTEN = ("named", "packed", "gap")
"""Scans that get them; the last has lost a slice."""
DISEASES = {"840539006", "840544004", "233604007", "385093006", "75570004", "53084003", "17621005"}
"""SNOMED CT: COVID-19 (disease, suspected), pneumonia (any, community acquired, viral, bacterial), normal."""


@dataclass(frozen=True)
class Delivered:
    """What one run of predict.py made of five scans."""

    code: int
    output_text: str
    sources: Path
    output: Path

    @property
    def scans(self) -> dict[str, dict]:
        document = json.loads((self.output / "predictions.json").read_text())
        return {answer["scan"]: answer for answer in document["scans"]}

    def images(self, scan: str) -> list[Dataset]:
        paths = (self.sources / scan).glob("*.dcm")
        return sorted(map(pydicom.dcmread, paths), key=lambda image: -image.ImagePositionPatient[2])


@pytest.fixture(scope="module")
def delivered(tiny_study: Path, varied_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp("delivered")
    sources = folder / "scans"
    first, second, third = phantoms(tiny_study, with_uids=True)[:3]
    edited(first, sources / "named", lambda image, _: setattr(image, "PatientName", SECRET))
    shutil.copytree(phantoms(tiny_study, with_uids=False)[0], sources / "shared")
    edited(third, sources / "patient", lambda image, _: image.__delitem__("QualityControlImage"))
    shutil.copytree(second, folder / "packed")
    with zipfile.ZipFile(sources / "packed.zip", "w") as archive:
        for path in (folder / "packed").iterdir():
            archive.write(path, f"packed/{path.name}")
    # a slice is taken from it, and 20 are needed; the series becomes another than the same scan's above
    gap = next(folder for folder in phantoms(tiny_study, with_uids=True) if len(list(folder.iterdir())) > N_GROUPS)
    gap = edited(gap, sources / "gap", lambda image, _: setattr(image, "SeriesInstanceUID", "1.2.840.99.1"))
    sorted(gap.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])[9].unlink()
    # in a process of its own: what the processes that it starts say is heard too, and every warning
    words = [f"input={sources}", f"runs={varied_study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]"]
    words += [f"output={folder / 'out'}", "gpus=0", "segmentation=true", "ingest.allow_gaps=true"]
    command = [sys.executable, "-W", "always", str(ROOT / "predict.py"), *words, *DICOM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    shutil.move(folder / "packed", sources / "packed")
    return Delivered(done.returncode, done.stdout + done.stderr, sources, folder / "out")


def read(delivered: Delivered, scan: str, name: str) -> Dataset:
    return pydicom.dcmread(delivered.output / "dicom" / scan / name)


def items(node: Dataset) -> Iterator[Dataset]:
    for child in node.get("ContentSequence", []):
        yield child
        yield from items(child)


def codes_in(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    for element in dataset.iterall():
        if element.keyword.endswith("CodeSequence"):
            for code in element.value:
                yield code.CodingSchemeDesignator, code.CodeValue, code.CodeMeaning


def meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def test_each_scan_gets_all_its_files_or_the_reason_and_other_scans_continue(delivered: Delivered) -> None:
    assert delivered.code == 1
    scans = delivered.scans
    assert set(scans) == {*WRITTEN, "shared", "patient"}
    assert all(len(answer["probabilities"]) == 3 for answer in scans.values())
    for scan in WRITTEN:
        files = [f"dicom/{scan}/{name}" for name in FILES]
        assert scans[scan]["dicom"] == {"files": files, "refused": None, "code": None}
    codes = {scan: scans[scan]["dicom"]["code"] for scan in ("shared", "patient")}
    assert codes == {"shared": "dicom-identifiers", "patient": "dicom-source"}
    reasons = {scan: scans[scan]["dicom"]["refused"] for scan in ("shared", "patient")}
    assert "images lack SOPInstanceUID (anonymised?)" in reasons["shared"]
    assert "this study was trained on phantoms" in reasons["patient"]
    assert "2 of 5 scans with a prediction got no DICOM:" in delivered.output_text
    for scan, reason in reasons.items():
        assert reason in delivered.output_text
        assert reason.startswith(f"{scan}: ")
        assert not scans[scan]["dicom"]["files"]
    written_paths = {
        path.relative_to(delivered.output).as_posix() for path in (delivered.output / "dicom").rglob("*.*")
    }
    assert written_paths == {f"dicom/{scan}/{name}" for scan in WRITTEN for name in FILES}


def test_only_the_dicom_files_have_identifiers(delivered: Delivered) -> None:
    image = delivered.images("named")[0]
    planted = (SECRET, str(image.PatientID), str(image.StudyInstanceUID), str(image.SOPInstanceUID))
    leaking = leaks(delivered.output, planted)
    assert not [name for name in leaking if not name.endswith(".dcm")]
    assert {Path(name).name for name in leaking if "/named/" in name} == set(FILES)
    assert not found_in(delivered.output_text.encode(), planted)
    assert read(delivered, "named", "report.dcm").PatientName == SECRET


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("scan", WRITTEN)
def test_dciodvfy_finds_no_error(delivered: Delivered, scan: str, name: str) -> None:
    assert dciodvfy_errors(delivered.output / "dicom" / scan / name) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_in_the_patient_s_study_in_a_new_series(delivered: Delivered, name: str) -> None:
    image, dataset = delivered.images("named")[0], read(delivered, "named", name)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "PatientSex"):
        assert dataset.get(keyword) == image.get(keyword), keyword
    assert dataset.PatientBirthDate == dataset.AccessionNumber == ""
    series_uids = {read(delivered, scan, entry).SeriesInstanceUID for scan in WRITTEN for entry in FILES}
    assert len(series_uids | {image.SeriesInstanceUID}) == 10
    assert dataset.QualityControlSubject == "YES"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert (dataset.Manufacturer, len(dataset.DeviceSerialNumber)) == ("CNR-IEMN", 64)


@pytest.mark.parametrize("scan", WRITTEN)
def test_the_report_has_the_values_of_predictions_json(delivered: Delivered, scan: str) -> None:
    report = hd.sr.srread(delivered.output / "dicom" / scan / "report.dcm")
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    assert isinstance(report.content, hd.sr.MeasurementReport)
    assert report.VerificationFlag == "UNVERIFIED"
    answer = delivered.scans[scan]
    whole, *key_groups = report.content.get_image_measurement_groups()
    assert key_groups
    values = {str(entry.name.meaning): entry.value for entry in whole.get_measurements()}
    for label, value in answer["probabilities"].items():
        assert values[f"Model output, class {label}"] == value
        assert values[f"Calibrated output, class {label}"] == answer["calibrated"][label]
    assert values["Number of slices"] == answer["n_slices"]
    assert values["Volume"] == answer["lung_litres"]
    sources = [image.SOPInstanceUID for image in delivered.images(scan)]
    assert [entry.referenced_sop_instance_uid for entry in whole.source_images] == sources
    assert [str(uid) for _, _, uid, _ in report.get_evidence()] == sources
    for group in key_groups:
        (reference,) = group.source_images
        number = int(str(group.tracking_identifier).split("slice ")[1].split(" of")[0])
        assert reference.referenced_sop_instance_uid == sources[number - 1]
    plain = read(delivered, scan, "report.dcm")
    numbers = {meaning(item): item.MeasuredValueSequence[0] for item in items(plain) if item.ValueType == "NUM"}
    for label, value in answer["probabilities"].items():  # a decimal string has 16 characters, the float beside it all
        number = numbers[f"Model output, class {label}"]
        assert float(number.NumericValue) == pytest.approx(value, rel=1e-9)
        assert number.get("FloatingPointValue", float(number.NumericValue)) == value
    names = {meaning(item): item.TextValue for item in items(report) if item.ValueType == "TEXT"}
    assert names["Permitted use"] == "Research use only, not a medical device."
    assert names["Notice on synthetic images"] == "phantom study: no diagnostic meaning"
    assert names["Prediction of the model in a sentence"] == "Phantom study: no diagnostic meaning."
    assert names["Whether the model is undecided"] in ("undecided", "not undecided")
    assert "on 9 training scans of phantom on" in names["Calibration"]
    assert names["Closed set of classes"].startswith("Closed set: ")


def test_no_class_is_a_coded_finding(delivered: Delivered) -> None:
    report = read(delivered, "named", "report.dcm")
    codes = set(codes_in(report))
    assert not {value for _, value, _ in codes} & DISEASES
    anatomy = {"39607008", "51440002", "118565006", "363698007", "272741003"}  # lung, bilateral, volume; site, side
    assert {value for scheme, value, _ in codes if scheme == "SCT"} == anatomy
    for item in items(report):
        if any(label in meaning(item) for label in ("Normal", "COVID-19", "CAP")):
            assert item.ValueType == "NUM"
            assert item.ConceptNameCodeSequence[0].CodingSchemeDesignator == "99CNRIEMN"
        for code in item.get("ConceptCodeSequence", []):
            assert not any(label in code.CodeMeaning for label in ("Normal", "COVID", "CAP", "neumonia"))


def test_the_capture_reopens_as_the_picture_of_a_source_slice(delivered: Delivered) -> None:
    image = hd.imread(delivered.output / "dicom" / "named" / "capture.dcm")
    assert image.SOPClassUID.keyword == "SecondaryCaptureImageStorage"
    assert image.pixel_array.shape == (image.Rows, 828, 3)
    assert list(image.PatientOrientation) == ["L", "P"]
    assert (image.BurnedInAnnotation, image.QualityControlImage) == ("NO", "YES")
    sources = {entry.SOPInstanceUID for entry in delivered.images("named")}
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID in sources


@pytest.mark.parametrize("scan", WRITTEN)
def test_the_mask_lies_on_the_images(delivered: Delivered, scan: str) -> None:
    dataset = hd.seg.segread(delivered.output / "dicom" / scan / "lungs.dcm")
    assert dataset.SegmentationType == "BINARY"
    (segment,) = dataset.SegmentSequence
    assert (segment.SegmentAlgorithmType, segment.SegmentLabel) == ("AUTOMATIC", "Lungs")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "39607008"
    images = {tuple(map(float, image.ImagePositionPatient)): image for image in delivered.images(scan)}
    assert dataset.FrameOfReferenceUID == next(iter(images.values())).FrameOfReferenceUID
    volume = read_scan(delivered.sources / scan, ReadOptions(allow_gaps=True))
    mask = segment_lungs(volume.hu, volume.spacing_mm, method="pleura").mask
    laid = np.zeros_like(mask)
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        image = images[tuple(map(float, group.PlanePositionSequence[0].ImagePositionPatient))]
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
        index = int(np.abs(volume.z_mm - float(image.ImagePositionPatient[2])).argmin())
        laid[index] = frame
        stored = imagecodecs.jpeg8_decode(next(generate_frames(image.PixelData, number_of_frames=1)))
        inside = stored[frame.astype(bool)] + float(image.RescaleIntercept)
        assert np.median(inside) < -320  # whatever the reader and the mask think, there is air below it
    assert np.array_equal(laid, mask)
