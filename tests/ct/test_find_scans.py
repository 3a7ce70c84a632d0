"""Which folders are scans."""

import os
import signal
import time
from pathlib import Path

import pytest
from pydicom import uid

from cnr_iemn.ct.io.discovery import _series_in, find_scans
from cnr_iemn.ct.io.folders import natural_key
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import CohortError, ScanError


@pytest.fixture
def slices(dicom):
    return dicom.make_slices(4)


def test_one_scan(dicom, slices, tmp_path):
    folder = dicom.write(tmp_path / "P012", slices)
    assert find_scans(folder) == [("P012", folder)]


def test_many_scans_in_natural_order(dicom, slices, tmp_path):
    for name in ("P10", "P2", "P1"):
        dicom.write(tmp_path / "COVID-19 Cases" / name, dicom.make_slices(4, series=f"1.{name[1:]}"))
    dicom.write(tmp_path / "Cap Cases" / "cap001", slices)
    (tmp_path / "empty").mkdir()
    (tmp_path / "Index.csv").write_text("Folder/ID\n")
    assert [scan_id for scan_id, _ in find_scans(tmp_path)] == ["cap001", "P1", "P2", "P10"]


def test_folders_below_a_scan_belong_to_it(dicom, slices, tmp_path):
    dicom.write(tmp_path / "P1", slices)
    dicom.write(tmp_path / "P1" / "scout", slices[:1])
    assert find_scans(tmp_path) == [("P1", tmp_path / "P1")]


def test_a_series_in_several_folders_is_one_scan(dicom, tmp_path):
    slices = dicom.make_slices(8, series="7.7")
    dicom.write(tmp_path / "P1" / "a", slices[::2])
    dicom.write(tmp_path / "P1" / "b", slices[1::2])
    dicom.write(tmp_path / "P2", dicom.make_slices(4, series="8.8"))
    result = find_scans(tmp_path)
    assert result == [("P1", tmp_path / "P1"), ("P2", tmp_path / "P2")]
    assert len(read_scan(result[0][1]).hu) == 8


def test_scans_without_series_uid_stay_apart(dicom, slices, tmp_path):
    for ds in slices:
        ds.SeriesInstanceUID = ""
    for name in ("P1", "P2"):
        dicom.write(tmp_path / name, slices)
    assert [scan_id for scan_id, _ in find_scans(tmp_path)] == ["P1", "P2"]


def test_same_name_twice(dicom, tmp_path):
    """Both are told by their path below the input; the others keep their names."""
    for number, patient in enumerate(("P1", "P2")):
        dicom.write(tmp_path / patient / "CT", dicom.make_slices(4, series=f"1.{number}"))
    dicom.write(tmp_path / "P3", dicom.make_slices(4))
    assert [scan_id for scan_id, _ in find_scans(tmp_path)] == ["P1/CT", "P2/CT", "P3"]


@pytest.mark.parametrize(
    ("module", "function", "denies", "message"),
    [
        (os, "scandir", lambda path: Path(path).name == "P1", "cannot be listed"),
        (Path, "lstat", lambda path: path.parent.name == "P1", "its files cannot be reached"),
        (Path, "lstat", lambda path: path.name == "P1", None),
    ],
    ids=["not listed", "not entered", "not known"],
)
def test_a_folder_out_of_reach_costs_itself_only(dicom, tmp_path, monkeypatch, module, function, denies, message):
    for number, patient in enumerate(("P1", "P2")):
        dicom.write(tmp_path / patient, dicom.make_slices(4, series=f"1.{number}"))
    plain = getattr(module, function)

    def denied(path):
        if denies(path):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(module, function, denied)
    result = find_scans(tmp_path)
    assert [scan_id for scan_id, _ in result] == ["P1", "P2"]
    if message:
        with pytest.raises(ScanError, match=rf"^P1: {message} \(Permission denied\)\. Check"):
            read_scan(result[0][1])


def test_a_tree_that_is_too_deep_costs_itself_only(dicom, tmp_path):
    dicom.write(tmp_path / "P1", dicom.make_slices(4))
    (tmp_path / "/".join("abcdefghijk")).mkdir(parents=True)
    result = find_scans(tmp_path)
    assert [scan_id for scan_id, _ in result] == ["i", "P1"]
    with pytest.raises(ScanError, match=r"^i: no CT image in it"):
        read_scan(result[0][1])


def test_a_damaged_scan_is_not_passed_over(dicom, slices, tmp_path):
    dicom.write(tmp_path / "P1", slices)
    (tmp_path / "P2").mkdir()
    (tmp_path / "P2" / "IM0001.dcm").write_bytes(b"")
    assert [scan_id for scan_id, _ in find_scans(tmp_path)] == ["P1", "P2"]


def test_images_of_another_modality_are_not_passed_over_where_they_lie_alone(dicom, tmp_path):
    def of_class(name, sop_class):
        slices = dicom.make_slices(4, series=f"1.{len(name)}")
        for ds in slices:
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
        dicom.write(tmp_path / name, slices, [f"{len(name)}-{k}.dcm" for k in range(4)])

    of_class("P1", uid.MRImageStorage)
    of_class("dose", uid.EnhancedSRStorage)
    of_class("study2", uid.PositronEmissionTomographyImageStorage)
    dicom.write(tmp_path / "study2" / "CT", dicom.make_slices(4))
    result = find_scans(tmp_path)
    assert [scan_id for scan_id, _ in result] == ["P1", "CT"]
    with pytest.raises(ScanError, match=r"^P1: no CT image in it \(found MRImageStorage \(4\)\)"):
        read_scan(result[0][1])


def test_no_scan(tmp_path):
    with pytest.raises(CohortError, match="is not a folder, zip or NIfTI file"):
        find_scans(tmp_path / "nowhere")
    root = tmp_path / "root"
    root.mkdir()
    (root / "notes.txt").write_text("no scan")
    with pytest.raises(CohortError, match=r"No CT scan \(DICOM, zip, NIfTI\)"):
        find_scans(root)
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(CohortError, match=r"1 link\(s\) were not followed"):
        find_scans(root)


def series_or_death(listing: tuple[Path, list[str]]) -> str | None:
    """Die of the files of P2, as of a header made for it. Runs in a worker."""
    if listing[0].name == "P2":
        os.kill(os.getpid(), signal.SIGKILL)
    return _series_in(listing)


def series_or_death_of_each(folders: list[tuple[Path, list[str]]]) -> list[str | None]:
    return [series_or_death(listing) for listing in folders]


def test_a_header_that_kills_its_reader_costs_its_scan_only(dicom, tmp_path, monkeypatch):
    for name in ("P1", "P2", "P3"):
        dicom.write(tmp_path / name, dicom.make_slices(2, series=f"1.{name[1:]}"))
    dicom.write(tmp_path / "P3" / "below", dicom.make_slices(2, series="1.9"))
    monkeypatch.setattr("cnr_iemn.ct.io.discovery._series_in", series_or_death)
    monkeypatch.setattr("cnr_iemn.ct.io.discovery._series_in_each", series_or_death_of_each)
    assert [name for name, _ in find_scans(tmp_path, workers=1)] == ["P1", "P2", "P3"]


def test_many_folders_are_found_in_linear_time_and_in_order(tmp_path):
    """Quadratic work on 5,000 folders takes minutes; more than one batch goes to the workers."""
    names = [f"s{k}" for k in range(5000)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "IM1.dcm").touch()
    start = time.monotonic()
    assert find_scans(tmp_path) == [(name, tmp_path / name) for name in names]
    assert time.monotonic() - start < 30
    assert [name for name, _ in find_scans(tmp_path, workers=2)] == names


def test_natural_key():
    names = ["p10", "P2", "normal001", "P1a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "normal001", "P1a", "P2", "p10"]
