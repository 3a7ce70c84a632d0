"""CSV files as people save them: read where that is plain, else refused with the file's name, never a traceback."""

from pathlib import Path

import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.data.label_files import read_labels
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.data.splits import read_split
from cnr_iemn.errors import CohortError


@pytest.mark.parametrize(
    "data",
    [
        b"a,b,c\n1,x;y,\n",
        b"\xef\xbb\xbfa,b,c\r\n1,x;y,\r\n",
        b'a;b;c\n1;"x;y";\n',
        b'"a"\t"b"\t"c"\n1\tx;y\t\n',
        b"a,b,c,,\n\n , , , ,\n1,x;y,,,\n",
        b"c,b,a\r,x;y,1\r",
    ],
)
def test_every_plain_form_gives_the_same_row(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(data)
    ((_, row),) = read_rows(tmp_path / "f.csv", {"a", "b"}, {"c"})
    assert row == {"a": "1", "b": "x;y", "c": ""}


BROKEN = {
    "latin-1": ("scan_id,split\nMüller,training\n".encode("latin-1"), "is not UTF-8"),
    "utf-16": ("scan_id,split\ns0,training\n".encode("utf-16"), "is not UTF-8"),
    "spreadsheet": (b"PK\x03\x04\xff\xfe\x00", "is not UTF-8"),
    "nul": (b"scan_id,split\ns0\x00,training\n", ":2: a NUL character"),
    "short": (b"scan_id,split,patient_id\ns0,training,p\ns1,training\n", ":3: 2 fields, but 3 columns"),
    "long": (b"scan_id,split\ns0,training,more\n", ":2: more fields than columns"),
    "value below no name": (b"scan_id,split,\ns0,training,more\n", ":2: more fields than columns"),
    "open quote": (b'scan_id,split\ns0,"training\ns1,training\n', ":3: this is not CSV"),
    "endless field": (b'scan_id,split\ns0,"' + b"x" * 200_000 + b'"\n', ":2: this is not CSV"),
    "letters after a quote": (b'scan_id,split\n"s"0,training\n', ":2: this is not CSV"),
    "twice": (b"scan_id,split,split\ns0,training,validation\n", "given twice split"),
    "empty": (b"", "missing scan_id, split"),
    "header alone": (b"scan_id,split\n", "lists nothing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_by_whoever_reads_it(name: str, tmp_path: Path) -> None:
    data, message = BROKEN[name]
    path = tmp_path / "f.csv"
    path.write_bytes(data)
    with pytest.raises(CohortError, match=message) as caught:
        read_split(path, Cohort("none", Path(), SPGC_CLASSES, ()))
    assert str(path) in str(caught.value)
    for read in (lambda: read_manifest(path), lambda: read_labels([path], ["s0"], SPGC_CLASSES)):
        with pytest.raises(CohortError) as caught:
            read()
        assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="is no file"):
        read_rows(tmp_path, {"a"}, None)
