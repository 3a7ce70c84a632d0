import hashlib
import os
from pathlib import Path

import pytest

from cnr_iemn import files


def test_text_and_bytes_arrive_as_given_in_folders_made_on_the_way(tmp_path: Path) -> None:
    files.write_text_atomic(tmp_path / "a" / "b" / "text.csv", "ä,b\r\n1,2\n")
    files.write_bytes_atomic(tmp_path / "a" / "raw", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text.csv").read_bytes() == b"\xc3\xa4,b\r\n1,2\n"
    assert (tmp_path / "a" / "raw").read_bytes() == b"\x00\xff"


def test_an_older_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    files.write_text_atomic(tmp_path / "x", "old and longer")
    files.write_text_atomic(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files.write_text_atomic(tmp_path / "x", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text_atomic(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("failing", [1, 3, 4])
def test_a_folder_has_all_its_files_or_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    files.write_folder_atomic(tmp_path / "x", {"a": b"old", "c": b"old"})
    files.write_folder_atomic(tmp_path / "x", {"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == {"a": b"1", "b": b"2"}
    replace, calls = os.replace, []

    def fail(*names: object) -> None:
        calls.append(names)
        if len(calls) == failing:
            raise OSError("disk full")
        replace(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(files.os, "replace", fail)  # of file a, of b, of the older folder, of the new one
    with pytest.raises(OSError, match="disk full"):
        files.write_folder_atomic(tmp_path / "x", {"a": b"newer", "b": b"newer"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == {"a": b"1", "b": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
