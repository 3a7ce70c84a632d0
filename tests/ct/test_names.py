"""Names of folders and files that are no UTF-8, break lines or are very long cost no scan, and no message."""

import os
import struct
import zipfile
from pathlib import Path

import pytest

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.folders import unpacked
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.readers.covid_ct_md import read_covid_ct_md
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ScanError
from cnr_iemn.inference.input_checks import output_name

ODD = {
    b"M\xfcller": "M\\udcfcller",
    b"two\nlines": "two\\nlines",
    b"\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\u202egnp".encode(): "\\u202egnp",
    "Müller 李".encode(): "Müller 李",
    b"l" * 255: "l" * 255,
}


def below(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))


def printable(text: str) -> bool:
    return text.encode("utf-8").decode() == text and text.isprintable()


def test_each_scan_has_an_id_that_can_be_written_and_printed(dicom, tmp_path):
    for k, name in enumerate(ODD):
        dicom.write(below(tmp_path, name), dicom.make_slices(2, series=f"1.{k}"))
    result = dict(find_scans(tmp_path))
    assert sorted(result) == sorted(ODD.values())
    assert all(map(printable, result))


def test_ids_stay_apart_where_names_read_alike(dicom, tmp_path):
    for k, name in enumerate((b"a\xff", b"a\\udcff", b"x/CT\xe9", b"y/CT\xe9")):
        dicom.write(below(tmp_path, name), dicom.make_slices(2, series=f"1.{k}"))
    ids = [scan for scan, _ in find_scans(tmp_path)]
    assert len(set(ids)) == 4
    assert {"x/CT\\udce9", "y/CT\\udce9"} < set(ids)
    assert all(map(printable, ids))


def test_a_refusal_names_an_odd_file_in_one_line(dicom, scan_folder):
    folder = scan_folder(dicom.make_slices())
    below(folder, b"M\xfcl\nler.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ScanError, match=r"^P012/M\\udcfcl\\nler\.dcm: ") as caught:
        read_scan(folder)
    assert printable(str(caught.value))


def test_a_cohort_with_odd_names_goes_into_the_store(dicom, tmp_path):
    root = below(tmp_path, b"donn\xe9es")
    classes = (b"Normal Cases", b"COVID-19 Cases", b"Cap Cases")
    names = [group + b"/" + name for group in classes for name in (b"M\xfcller%d", b"b%d\n")]
    for k, name in enumerate(names):
        dicom.write(below(root, name % k), dicom.make_slices(20, series=f"1.{k}"))
    below(root, classes[0] + b"/M\xfcller0/\xe9.dcm").write_bytes(b"no DICOM")
    cohort = read_covid_ct_md(root)
    assert all(printable(scan.scan_id) for scan in cohort.scans)
    store, failures = prepare_store(cohort, PixelSettings(size=32), cache=tmp_path / "cache", workers=0)
    assert list(failures) == ["M_udcfcller0"]
    assert all(map(printable, map(str, failures.values())))
    assert sum(store.scan(scan.scan_id).n_slices for scan in cohort.scans if scan.scan_id not in failures) == 5 * 20


def zip_of(path: Path, scan: Path, name: str, flag: int | None = None) -> Path:
    """Pack a scan's files under ``name`` with a number for {}; ``flag``: of the encoding, where not Python's own."""
    with zipfile.ZipFile(path, "w") as archive:
        for k, file in enumerate(sorted(scan.iterdir())):
            archive.writestr(name.format(k), file.read_bytes())
    if flag is not None:
        data = bytearray(path.read_bytes())
        for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            at = -1
            while (at := data.find(mark, at + 1)) >= 0:
                struct.pack_into("<H", data, at + place, flag)
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("M\xfcller/{}.dcm", None),
        ("M\xfcller/{}.dcm", 0),  # read as cp437
        ("検" * 80 + "{}.dcm", 0),  # 240 bytes, as cp437 of 720
        ("l" * 400 + "{}.dcm", None),
        ("l" * 400 + "/{}.dcm", None),
        ("a\nb\x1b{}.dcm", None),
        ("__MACOSX/{}/x.dcm", None),
    ],
)
def test_names_in_a_zip_do_not_matter(name, flag, dicom, scan_folder, tmp_path):
    folder = scan_folder(dicom.make_slices(4))
    path = zip_of(tmp_path / "packed.zip", folder, name, flag)
    if name.startswith("__MACOSX"):
        with pytest.raises(ScanError, match=r"^packed: no CT image in it"):
            read_scan(path)
        return
    assert read_scan(path).source_sha256 == read_scan(folder).source_sha256


def test_a_zip_whose_names_are_not_in_their_encoding_is_refused_by_its_own(dicom, scan_folder, tmp_path):
    path = zip_of(tmp_path / "packed.zip", scan_folder(dicom.make_slices(4)), "M\xfc{}.dcm")
    path.write_bytes(path.read_bytes().replace("M\xfc".encode(), b"M\xff\xfe"))
    with pytest.raises(ScanError, match=r"^packed: the zip cannot be unpacked \(UnicodeDecodeError\)"):
        read_scan(path)


def test_two_long_names_in_a_zip_stay_apart(tmp_path):
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for last in "ab":
            archive.writestr("l" * 400 + last, last)
    with unpacked(path, "packed") as folder:
        assert sorted(file.read_text() for file in folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", [*ODD, b"\xff" * 250])
def test_the_default_folder_of_answers_has_a_name_that_a_disk_takes(name, tmp_path):
    folder = tmp_path / output_name(below(tmp_path, name), anonymous=False)
    folder.mkdir()
    assert printable(folder.name)
