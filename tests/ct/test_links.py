"""Links: what git-annex, DVC, model hubs and sorting tools make of a scan's folder."""

import os

import numpy as np
import pytest

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ScanError


def linked(source, folder):
    """Make a folder of links to the files of another one."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_links_to_files_are_files(dicom, tmp_path):
    folder = linked(dicom.write(tmp_path / "store", dicom.make_slices()), tmp_path / "P012")
    (folder / "chain.dcm").symlink_to(folder / "IM0003.dcm")  # the same file once more
    result = read_scan(folder)
    np.testing.assert_array_equal(result.hu, dicom.expected_hu())
    assert result.findings == ("1 file(s) with position and pixels of another one dropped",)


@pytest.mark.parametrize("store", [".git/annex/objects", ".dvc/cache/files/md5"])
def test_the_store_of_a_tool_is_no_scan(store, dicom, tmp_path):
    root = tmp_path / "data"
    for k, ds in enumerate(dicom.make_slices()):
        path = root / store / f"{k:02x}" / f"SHA256-{k}.dcm"
        dicom.write(path.parent, [ds], [path.name])
        (root / "P012").mkdir(exist_ok=True)
        (root / "P012" / f"{k}.dcm").symlink_to(os.path.relpath(path, root / "P012"))
    assert find_scans(root) == [("P012", root / "P012")]
    np.testing.assert_array_equal(read_scan(root / "P012").hu, dicom.expected_hu())


def test_a_link_to_a_folder_is_followed_once(dicom, tmp_path):
    dicom.write(tmp_path / "store" / "a", dicom.make_slices()[:12])
    dicom.write(tmp_path / "store" / "b", dicom.make_slices()[12:])
    folder = tmp_path / "P012"
    folder.mkdir()
    for name, target in (
        ("1", "store/a"),
        ("2", "store/b"),
        ("3", "store/b"),
        ("4", "store"),
        ("up", "."),
        ("self", "P012"),
    ):
        (folder / name).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "store" / "a" / "back").symlink_to(tmp_path / "store", target_is_directory=True)
    (folder / "device").symlink_to("/dev/zero")
    result = read_scan(folder)
    np.testing.assert_array_equal(result.hu, dicom.expected_hu())
    assert result.findings[0] == "slices from 2 folders"
    assert all(" link" in finding for finding in result.findings[1:])


def test_scans_behind_links_are_found_once(dicom, tmp_path):
    for name in ("P1", "P2"):
        dicom.write(tmp_path / "raw" / name, dicom.make_slices(4, series=f"1.{name[1]}"))
    sets = tmp_path / "sets"
    (sets / "train").mkdir(parents=True)
    (sets / "train" / "first").symlink_to(tmp_path / "raw" / "P1", target_is_directory=True)
    (sets / "whole").symlink_to(tmp_path / "raw", target_is_directory=True)
    assert [name for name, _ in find_scans(sets)] == ["P1", "P2"]
    assert [name for name, _ in find_scans(tmp_path)] == ["P1", "P2"]


def test_a_broken_link_among_slices_is_named(dicom, tmp_path):
    folder = linked(dicom.write(tmp_path / "store", dicom.make_slices()), tmp_path / "P012")
    (tmp_path / "store" / "IM0023.dcm").unlink()
    with pytest.raises(ScanError, match=r"^P012/IM0023\.dcm: is a link to something that is missing\. Fetch it"):
        read_scan(folder)
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    with pytest.raises(ScanError, match=r"^P012: no CT image in it .*IM0000\.dcm: is a link to something"):
        read_scan(folder)
    assert find_scans(tmp_path) == [("P012", folder)]  # so that it is refused by name


def test_a_link_to_itself_is_a_broken_one(dicom, tmp_path):
    folder = dicom.write(tmp_path / "P012", dicom.make_slices())
    (folder / "loop.dcm").symlink_to(folder / "loop.dcm")
    with pytest.raises(ScanError, match=r"loop\.dcm: is a link to something that is missing"):
        read_scan(folder)


def test_a_scan_that_is_a_broken_link_is_refused_by_name(dicom, tmp_path):
    dicom.write(tmp_path / "P1", dicom.make_slices(4))
    (tmp_path / "P2").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (tmp_path / "P3.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    result = find_scans(tmp_path)
    assert [path.name for _, path in result] == ["P1", "P2", "P3.nii.gz"]
    for _, path in result[1:]:
        with pytest.raises(ScanError, match="is a link to something that is missing"):
            read_scan(path)


def test_the_store_sees_that_a_links_target_changed(dicom, tmp_path):
    folder = linked(dicom.write(tmp_path / "store", dicom.make_slices()), tmp_path / "P012")
    outside = tmp_path / "links"
    outside.mkdir()
    (outside / "below").symlink_to(folder, target_is_directory=True)
    scans = tuple(ScanRecord(path.name, path.name, path, "CAP") for path in (folder, outside))
    cohort = Cohort("one", tmp_path, ("CAP", "Normal"), scans)
    settings = PixelSettings(size=48)
    store, failures = prepare_store(cohort, settings, cache=tmp_path / "cache")
    assert failures == {}
    before = [store.grey(scan.scan_id).copy() for scan in scans]
    target = tmp_path / "store" / "IM0005.dcm"
    slices = dicom.make_slices()
    slices[5].PixelData = (dicom.stored(slices[5]) + 90).tobytes()
    slices[5].save_as(target, enforce_file_format=True)
    store, failures = prepare_store(cohort, settings, cache=tmp_path / "cache")
    assert failures == {}
    for scan, old in zip(scans, before, strict=True):
        assert not np.array_equal(store.grey(scan.scan_id), old)
