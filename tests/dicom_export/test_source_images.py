"""Scans that can have DICOM output, and the reasons of those that cannot, without values of the header."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.reader import read_scan, source_digest
from cnr_iemn.dicom_export.source_images import SourceJob, read_source
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import STRICT
from tests.ct.conftest import make_enhanced, write
from tests.ct.hazard import Change, put
from tests.dicom_export.dicom_scans import edited, phantom_with_uids


def job(folder: Path) -> SourceJob:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return SourceJob("P012", folder, source_digest({hashlib.sha256(path.read_bytes()).digest() for path in files}))


def first_only(**values: object) -> Change:
    return lambda image, index=0: None if index else put(**values)(image, index)


def test_the_images_come_head_first_with_their_identifiers_only(tiny_study: Path, tmp_path: Path) -> None:
    extra = {"StationName": "SECRET", "InstitutionName": "SECRET", "OtherPatientIDs": ["SECRET"]}
    change = put(PatientName="Müller^Ärztin", **extra)
    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", change)
    source = read_source(job(folder), options=STRICT, lungs="pleura")
    assert source.lungs is not None
    heights = [float(image.ImagePositionPatient[2]) for image in source.images]
    assert heights == sorted(heights, reverse=True) == list(read_scan(folder).z_mm)
    assert source.lungs.shape == (len(heights), 64, 64)
    first = source.images[0]
    assert (first.PatientName, first.PatientBirthDate, first.AccessionNumber) == ("Müller^Ärztin", "", "")
    assert first.PatientID.startswith("PHANTOM-")
    for image in source.images:
        assert not {*extra, "SeriesDescription", "PixelData"} & {element.keyword for element in image}
        assert "SECRET" not in str(image)
    without = read_source(job(folder), options=STRICT, lungs=None)
    assert without.lungs is None
    assert [image.SOPInstanceUID for image in without.images] == [image.SOPInstanceUID for image in source.images]


@pytest.mark.filterwarnings("ignore:Unknown encoding")  # of pydicom, while the first reader and this test look at it
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(SOPInstanceUID=""), r"\d+ of \d+ images lack SOPInstanceUID \(anonymised\?\)"),
        (first_only(SOPInstanceUID=""), r": 1 of \d+ images lack SOPInstanceUID"),
        (put(SOPInstanceUID="1.2.3"), r"images share 1 SOPInstanceUID\(s\)"),
        (put(SOPInstanceUID="SECRET"), "SOPInstanceUID holds what DICOM does not allow"),
        (put(SOPInstanceUID=["1.2", "SECRET"]), "SOPInstanceUID holds what DICOM does not allow"),
        (put(SliceThickness=["5", "5"]), "SliceThickness holds what DICOM does not allow"),
        (put(StudyInstanceUID=None), "images lack StudyInstanceUID"),
        (put(StudyInstanceUID="1.02.SECRET"), "StudyInstanceUID holds what DICOM does not allow"),
        (first_only(StudyInstanceUID="1.2.3"), "StudyInstanceUID differs between its images"),
        (put(SeriesInstanceUID=None), "images lack SeriesInstanceUID"),
        (put(FrameOfReferenceUID=None), "images lack FrameOfReferenceUID"),
        (put(PatientID=None), "PatientID is not in the header"),
        (first_only(PatientID="SECRET"), "PatientID differs between its images"),
        (put(PatientID="SECRET" * 12), "PatientID holds what DICOM does not allow"),
        (put(PatientID=["SECRET", "b"]), "PatientID holds what DICOM does not allow"),
        (put(PatientSex="SECRET"), "PatientSex holds what DICOM does not allow"),
        (put(StudyDate="2020.01.01"), "StudyDate holds what DICOM does not allow"),
        (put(PatientBirthDate="SECRET"), "PatientBirthDate holds what DICOM does not allow"),
        (put(SpecificCharacterSet="SECRET"), "SpecificCharacterSet holds what DICOM does not allow"),
    ],
)
def test_images_without_identifiers_are_refused(tiny_study: Path, tmp_path: Path, change: Change, reason: str) -> None:
    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", change)
    with pytest.raises(ScanError, match=reason) as caught:
        read_source(job(folder), options=STRICT, lungs="pleura")
    assert str(caught.value).startswith("P012: ")
    assert "SECRET" not in str(caught.value)
    assert re.search("leave dicom=true out", str(caught.value))


def test_an_internal_error_refuses_the_scan_without_its_message(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise TypeError("SECRET")

    monkeypatch.setattr("cnr_iemn.dicom_export.source_images.plan_scan", fails)
    with pytest.raises(
        ScanError, match=r"P012: the program failed on it \(TypeError in test_source_images\.py"
    ) as caught:
        read_source(job(phantom_with_uids(tiny_study)), options=STRICT, lungs=None)
    assert "SECRET" not in str(caught.value)


def test_an_empty_patient_id_and_a_missing_name_are_accepted(tiny_study: Path, tmp_path: Path) -> None:
    def change(image: Dataset, _: int) -> None:
        image.PatientID = ""
        del image.PatientName, image.FrameOfReferenceUID

    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", change)
    image = read_source(job(folder), options=STRICT, lungs=None).images[0]  # without a mask no frame of reference
    assert (image.PatientID, image.PatientName) == ("", "")


def test_files_that_changed_since_the_prediction_are_refused(tiny_study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(phantom_with_uids(tiny_study), tmp_path / "P012")
    answered = job(folder)
    path = min(folder.iterdir())
    with disable_value_validation():
        image = pydicom.dcmread(path)
    image.PatientID = "another"
    image.save_as(path, enforce_file_format=False)
    with pytest.raises(ScanError, match=r"P012: its files changed after the prediction"):
        read_source(answered, options=STRICT, lungs=None)


def test_nifti_has_no_patient(tmp_path: Path) -> None:
    path = tmp_path / "P012.nii.gz"
    path.touch()
    with pytest.raises(ScanError, match="a NIfTI file names no patient"):
        read_source(SourceJob("P012", path, ""), options=STRICT, lungs=None)


def test_frames_of_a_multiframe_file_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "P012", [make_enhanced()])
    with pytest.raises(ScanError, match="P012: an enhanced multi-frame CT"):
        read_source(job(folder), options=STRICT, lungs=None)


def test_the_mask_is_that_of_the_prediction(tiny_study: Path) -> None:
    folder = phantom_with_uids(tiny_study)
    source = read_source(job(folder), options=STRICT, lungs="border")
    assert source.lungs is not None
    hu = read_scan(folder).hu
    assert hu[source.lungs].mean() < -600
    assert hu[~source.lungs].mean() > -600
    assert np.flatnonzero(source.lungs.any(axis=(1, 2))).size > 10
