"""Which scans can have DICOM output, and the reason where one cannot: no message holds a value of the header."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from cnr_iemn.ct import read_scan
from cnr_iemn.ct.reader import source_digest
from cnr_iemn.deliver.dicom.source import SourceJob, read_source
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT
from tests.ct.conftest import make_enhanced, write
from tests.deliver.dicom_scans import edited, phantom_with_uids

Change = Callable[[Dataset, int], None]


def job(folder: Path) -> SourceJob:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return SourceJob("P012", folder, source_digest({hashlib.sha256(path.read_bytes()).digest() for path in files}))


def set_all(**values: object) -> Change:
    def change(image: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(image, keyword, value)

    return change


def delete(keyword: str) -> Change:
    return lambda image, _: image.__delitem__(keyword)


def last(**values: object) -> Change:
    return lambda image, index: None if index else set_all(**values)(image, index)


def test_the_images_come_head_first_with_their_identifiers_and_nothing_else(tiny_study: Path, tmp_path: Path) -> None:
    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", set_all(PatientName="Müller^Ärztin"))
    source = read_source(job(folder), allowed=STRICT, lungs="pleura")
    assert source.lungs is not None
    heights = [float(image.ImagePositionPatient[2]) for image in source.images]
    assert heights == sorted(heights, reverse=True) == list(read_scan(folder).z_mm)
    assert source.lungs.shape == (len(heights), 64, 64)
    first = source.images[0]
    assert (first.PatientName, first.PatientBirthDate, first.AccessionNumber) == ("Müller^Ärztin", "", "")
    assert first.PatientID.startswith("PHANTOM-")
    assert "SeriesDescription" not in first
    assert "StationName" not in first
    without = read_source(job(folder), allowed=STRICT, lungs=None)
    assert without.lungs is None
    assert [image.SOPInstanceUID for image in without.images] == [image.SOPInstanceUID for image in source.images]


@pytest.mark.filterwarnings("ignore:Unknown encoding")  # of pydicom, while the first reader and this test look at it
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_all(SOPInstanceUID=""), r"\d+ of \d+ images lack SOPInstanceUID \(anonymised\?\)"),
        (last(SOPInstanceUID=""), r": 1 of \d+ images lack SOPInstanceUID"),
        (set_all(SOPInstanceUID="1.2.3"), r"images share 1 SOPInstanceUID\(s\)"),
        (set_all(SOPInstanceUID="SECRET"), "SOPInstanceUID holds what DICOM does not allow"),
        (delete("StudyInstanceUID"), "images lack StudyInstanceUID"),
        (set_all(StudyInstanceUID="1.02.SECRET"), "StudyInstanceUID holds what DICOM does not allow"),
        (last(StudyInstanceUID="1.2.3"), "StudyInstanceUID differs between its images"),
        (delete("SeriesInstanceUID"), "images lack SeriesInstanceUID"),
        (delete("FrameOfReferenceUID"), "images lack FrameOfReferenceUID"),
        (delete("PatientID"), "PatientID is not in the header"),
        (last(PatientID="SECRET"), "PatientID differs between its images"),
        (set_all(PatientID="SECRET" * 12), "PatientID holds what DICOM does not allow"),
        (set_all(PatientID=["SECRET", "b"]), "PatientID holds what DICOM does not allow"),
        (set_all(PatientSex="SECRET"), "PatientSex holds what DICOM does not allow"),
        (set_all(StudyDate="2020.01.01"), "StudyDate holds what DICOM does not allow"),
        (set_all(PatientBirthDate="SECRET"), "PatientBirthDate holds what DICOM does not allow"),
        (set_all(SpecificCharacterSet="SECRET"), "SpecificCharacterSet holds what DICOM does not allow"),
    ],
)
def test_what_lacks_its_identifiers_is_refused(tiny_study: Path, tmp_path: Path, change: Change, reason: str) -> None:
    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", change)
    with pytest.raises(ScanError, match=reason) as caught:
        read_source(job(folder), allowed=STRICT, lungs="pleura")
    assert str(caught.value).startswith("P012: ")
    assert "SECRET" not in str(caught.value)
    assert re.search("leave dicom=true out", str(caught.value))


def test_an_empty_patient_id_and_a_missing_name_are_no_reason(tiny_study: Path, tmp_path: Path) -> None:
    def change(image: Dataset, _: int) -> None:
        image.PatientID = ""
        del image.PatientName, image.FrameOfReferenceUID

    folder = edited(phantom_with_uids(tiny_study), tmp_path / "P012", change)
    image = read_source(job(folder), allowed=STRICT, lungs=None).images[0]  # without a mask no frame of reference
    assert (image.PatientID, image.PatientName) == ("", "")


def test_files_that_changed_since_the_answer_are_refused(tiny_study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(phantom_with_uids(tiny_study), tmp_path / "P012")
    answered = job(folder)
    path = next(folder.iterdir())
    with disable_value_validation():
        image = pydicom.dcmread(path)
    image.PatientID = "another"
    image.save_as(path, enforce_file_format=False)
    with pytest.raises(ScanError, match=r"P012: its files changed after they were answered"):
        read_source(answered, allowed=STRICT, lungs=None)


def test_nifti_has_no_patient(tmp_path: Path) -> None:
    path = tmp_path / "P012.nii.gz"
    path.touch()
    with pytest.raises(ScanError, match="a NIfTI file names no patient"):
        read_source(SourceJob("P012", path, ""), allowed=STRICT, lungs=None)


def test_frames_of_one_file_are_not_referred_to(tmp_path: Path) -> None:
    folder = write(tmp_path / "P012", [make_enhanced()])
    with pytest.raises(ScanError, match="P012: an enhanced multi-frame CT"):
        read_source(job(folder), allowed=STRICT, lungs=None)


def test_the_mask_is_that_of_the_answer(tiny_study: Path) -> None:
    folder = phantom_with_uids(tiny_study)
    source = read_source(job(folder), allowed=STRICT, lungs="border")
    assert source.lungs is not None
    hu = read_scan(folder).hu
    assert hu[source.lungs].mean() < -600
    assert hu[~source.lungs].mean() > -600
    assert np.flatnonzero(source.lungs.any(axis=(1, 2))).size > 10
