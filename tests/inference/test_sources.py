"""Inputs that are no folder of scans: lists of paths, zips of several scans, a DICOMDIR."""

import os
import random
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from cnr_iemn.ct.io.folders import unpack_zip
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import CohortError, RefusalCode, ScanError
from cnr_iemn.inference.input_checks import find_new_scans
from cnr_iemn.inference.sources.dicomdir import read_series
from cnr_iemn.inference.sources.local_input import local_input
from tests.ct.conftest import make_slices, write


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with two scans of one name, and one of another."""
    for k, name in enumerate(("a/CT", "b/CT", "P3")):
        write(tmp_path / "in" / name, make_slices(4, series=f"1.{k}"))
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_list_has_a_scan_a_line(kind: str, scans: Path, tmp_path: Path) -> None:
    lines = ["in/a/CT", str(scans / "b" / "CT"), "in/P3", "in/./P3", "in/none"]
    text = "\n# two\n\n" + "\r\n".join(lines) if kind == "txt" else "\n".join(["\ufeffpath", *lines])
    path = tmp_path / f"scans.{kind}"
    path.write_bytes(text.encode())
    found = find_new_scans(path, anonymous=False)
    places = [scans / "a" / "CT", scans / "b" / "CT", scans / "P3", scans / "none"]
    assert found == list(zip(["a/CT", "b/CT", "P3", "none"], places, strict=True))
    assert [scan for scan, _ in find_new_scans(path, anonymous=True)] == [f"scan-000{k}" for k in range(1, 5)]
    with pytest.raises(ScanError) as caught:
        read_scan(places[-1], scan="none")
    assert caught.value.code is RefusalCode.NOT_FOUND


def test_a_list_may_name_images(tmp_path: Path) -> None:
    (tmp_path / "P1").mkdir()
    for k in (10, 9):
        cv2.imwrite(str(tmp_path / "P1" / f"{k}.png"), np.zeros((32, 32), np.uint8))
    (tmp_path / "scans.txt").write_text("P1\nP1/9.png\n")
    (first, images), (second, image) = find_new_scans(tmp_path / "scans.txt", anonymous=False)
    assert images == ImageStack("P1", (tmp_path / "P1" / "9.png", tmp_path / "P1" / "10.png"))
    assert (first, second, image) == ("P1", "9.png", ImageStack("9.png", (tmp_path / "P1" / "9.png",)))


def test_a_csv_with_more_columns_is_a_manifest_as_before(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text("scan_id,path\nx,in/P3\n")
    assert find_new_scans(tmp_path / "scans.csv", anonymous=False) == [("x", tmp_path / "in" / "P3")]
    (tmp_path / "scans.csv").write_text("path,class\nin/P3,\n")
    with pytest.raises(CohortError, match="scan_id"):
        find_new_scans(tmp_path / "scans.csv", anonymous=False)


@pytest.mark.parametrize(("data", "reason"), [(b"# none\n", "lists nothing"), (b"P\xff\n", "is not UTF-8")])
def test_a_list_that_is_none_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "Doe.txt"
    path.write_bytes(data)
    with pytest.raises(CohortError, match=reason):
        find_new_scans(path, anonymous=False)
    with pytest.raises(CohortError) as caught:
        find_new_scans(path, anonymous=True)
    assert "Doe" not in str(caught.value)


def pack(path: Path, root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.dcm")):
            archive.write(file, file.relative_to(root))
    return path


def test_a_zip_of_several_scans_is_unpacked_while_it_is_used(scans: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "cohort.zip", scans)
    with local_input(str(packed)) as given:
        found = find_new_scans(given.path, anonymous=False)
        assert [scan for scan, _ in found] == ["a/CT", "b/CT", "P3"]
        for scan, path in found:
            assert isinstance(path, Path)
            np.testing.assert_array_equal(read_scan(path).hu, read_scan(scans / scan).hu)
    assert not given.path.exists()


def test_a_zip_of_one_scan_is_left_to_its_reader(scans: Path, tmp_path: Path) -> None:
    one = pack(tmp_path / "one.zip", scans / "P3")
    write(scans / "P3" / "more", make_slices(4, series="1.2"))
    for packed in (one, pack(tmp_path / "two_folders.zip", scans / "P3")):
        with local_input(str(packed)) as given:
            assert given.path == packed


def test_a_hostile_zip_of_several_scans_writes_nothing_outside_and_is_refused(scans: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "cohort.zip", scans)
    before = sorted(tmp_path.rglob("*"))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../../../../outside.dcm", b"x")
    with local_input(str(packed)) as given:
        assert given.path == packed
        with pytest.raises(ScanError) as caught:
            read_scan(given.path)
    assert caught.value.code is RefusalCode.UNSAFE_ZIP
    assert sorted(tmp_path.rglob("*")) == before
    cut = tmp_path / "cut.zip"
    cut.write_bytes(packed.read_bytes()[:-200])
    with local_input(str(cut)) as given, pytest.raises(ScanError) as caught:
        read_scan(given.path)
    assert caught.value.code is RefusalCode.DAMAGED_ZIP


@pytest.mark.parametrize("limits", [{"max_files": 11, "max_bytes": 10**9}, {"max_files": 12, "max_bytes": 1000}])
def test_limits_of_a_zip(limits: dict[str, int], scans: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "cohort.zip", scans)
    (tmp_path / "out").mkdir()
    with pytest.raises(ScanError) as caught:
        unpack_zip(packed, tmp_path / "out", "zip", **limits)
    assert caught.value.code is RefusalCode.TOO_LARGE


def described(slices: list[Dataset], number: int) -> list[Dataset]:
    """Give slices what a DICOMDIR must tell of them."""
    for ds in slices:
        ds.PatientID, ds.PatientName, ds.StudyID = "1", "Doe^Jane", "1"
        ds.StudyDate, ds.StudyTime, ds.SeriesNumber = "20200101", "120000", number
    return slices


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """The DICOMDIR of two CT series and one of MR, with the files of a series in one folder."""
    file_set = FileSet()
    other = described(make_slices(2, series="1.3"), 3)
    for ds in other:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.MRImageStorage
    for ds in (*described(make_slices(5, series="1.1"), 1), *other, *described(make_slices(6, series="1.2"), 2)):
        file_set.add(ds)
    file_set.write(tmp_path / "medium")
    return tmp_path / "medium" / "DICOMDIR"


def test_a_dicomdir_gives_its_ct_series(medium: Path) -> None:
    with local_input(str(medium)) as given:
        found = find_new_scans(given.path, anonymous=False)
        assert [scan for scan, _ in found] == ["series-1", "series-2"]
        counts = [len(read_scan(path).hu) for _, path in found if isinstance(path, Path)]
        assert sorted(counts) == [5, 6]
        names = [name for _, _, files in os.walk(given.path) for name in files]
        assert not any("Doe" in name or "1.1" in name for name in names)
    assert not given.path.exists()


def test_a_dicomdir_whose_files_are_missing_is_refused(medium: Path) -> None:
    next(medium.parent.rglob("IM000000")).unlink()
    with (
        pytest.raises(CohortError, match="the DICOMDIR lists 13 files, of which 1 are missing") as caught,
        local_input(str(medium), anonymous=True),
    ):
        pass
    assert str(medium) not in str(caught.value)


def test_a_dicomdir_that_leads_outside_is_refused(medium: Path) -> None:
    (medium.parent.parent / "IM000000").write_bytes(b"x")
    data = medium.read_bytes()
    inside = b"PT000000\\ST000000\\SE000000\\IM000000"
    assert data.count(inside) == 1
    medium.write_bytes(data.replace(inside, b"..\\IM000000".ljust(len(inside))))
    with pytest.raises(CohortError, match="names a file outside its folder"):
        read_series(medium)


def test_damaged_dicomdirs_are_refused_or_read(medium: Path) -> None:
    data, draw, kinds = medium.read_bytes(), random.Random(0), set()
    for _ in range(60):
        damaged = bytearray(data[: draw.choice((len(data), draw.randrange(200, len(data))))])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        medium.write_bytes(damaged)
        try:
            read_series(medium)
            kinds.add("read")
        except CohortError as error:
            kinds.add(str(error).split(" (")[0][:25])
    assert {kind for kind in kinds if kind != "read" and not kind.startswith("the DICOMDIR")} == set()
    assert len(kinds) > 1


def signatures(source: Path, *, anonymous: bool = False) -> dict[str, str]:
    """Return the signature of each scan of an input."""
    with local_input(str(source), anonymous=anonymous) as given:
        return {scan: given.signature(path) for scan, path in find_new_scans(given.path, anonymous=anonymous)}


@pytest.mark.parametrize("kind", ["zip", "DICOMDIR"])
@pytest.mark.slow
def test_scans_in_temporary_folders_are_known_again(kind: str, request: pytest.FixtureRequest) -> None:
    """By the archive, or by the medium and the files of the series; another time shows."""
    tmp_path: Path = request.getfixturevalue("tmp_path")
    if kind == "zip":
        source = pack(tmp_path / "cohort.zip", request.getfixturevalue("scans"))
    else:
        source = request.getfixturevalue("medium")
    first, hidden = signatures(source), signatures(source, anonymous=True)
    assert len(first) == len(hidden) == (3 if kind == "zip" else 2)
    assert signatures(source) == first
    assert set(first.values()).isdisjoint(hidden.values())
    os.utime(source, (1, 1))
    assert set(first.values()).isdisjoint(signatures(source).values())


def test_a_changed_file_of_a_medium_changes_its_series_alone(medium: Path) -> None:
    first = signatures(medium)
    with local_input(str(medium)) as given:
        victim = next((given.path / "series-2").iterdir()).resolve()
    os.utime(victim, (1, 1))
    second = signatures(medium)
    assert {scan for scan in first if first[scan] != second[scan]} == {"series-2"}


def test_an_archive_that_is_replaced_while_it_is_read_shows(scans: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "cohort.zip", scans)
    with local_input(str(packed)) as given:
        os.utime(packed, (1, 1))
        noted = given.signature(given.path)
    assert noted not in signatures(packed).values()


def test_other_inputs_are_left_as_they_are(scans: Path, tmp_path: Path) -> None:
    for path in (scans, tmp_path / "none", scans / "P3" / "IM0000.dcm"):
        with local_input(str(path)) as given:
            assert given.path == path
