import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnr_iemn.errors import CnrIemnError
from cnr_iemn.utils import atomic_io
from tests.pipeline import ROOT


def test_text_and_bytes_arrive_as_given_in_folders_made_on_the_way(tmp_path: Path) -> None:
    atomic_io.write_text_atomic(tmp_path / "a" / "b" / "text.csv", "ä,b\r\n1,2\n")
    atomic_io.write_bytes_atomic(tmp_path / "a" / "raw", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text.csv").read_bytes() == b"\xc3\xa4,b\r\n1,2\n"
    assert (tmp_path / "a" / "raw").read_bytes() == b"\x00\xff"


def test_an_older_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    atomic_io.write_text_atomic(tmp_path / "x", "old and longer")
    atomic_io.write_text_atomic(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    atomic_io.write_text_atomic(tmp_path / "x", "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(atomic_io.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_io.write_text_atomic(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("failing", [1, 3, 4])
def test_a_folder_has_all_its_files_or_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    atomic_io.write_folder_atomic(tmp_path / "x", {"a": b"old", "c": b"old"})
    atomic_io.write_folder_atomic(tmp_path / "x", {"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == {"a": b"1", "b": b"2"}
    replace, calls = os.replace, []

    def fail(*names: object) -> None:
        calls.append(names)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "disk full")
        replace(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(atomic_io.os, "replace", fail)  # of file a, of b, of the older folder, of the new one
    with pytest.raises(OSError, match="disk full"):
        atomic_io.write_folder_atomic(tmp_path / "x", {"a": b"newer", "b": b"newer"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == {"a": b"1", "b": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_a_folder_takes_the_place_of_a_file_or_a_link_and_the_link_s_target_stays(tmp_path: Path, kind: str) -> None:
    place, other = tmp_path / "x", tmp_path / "other"
    if kind == "link":
        atomic_io.write_folder_atomic(other, {"a": b"another's"})
    if kind == "file":
        place.write_text("old")
    else:
        place.symlink_to(other)
    atomic_io.write_folder_atomic(place, {"a": b"new"})
    assert not place.is_symlink()
    assert (place / "a").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == ({"x", "other"} if kind == "link" else {"x"})
    assert kind != "link" or (other / "a").read_bytes() == b"another's"


def test_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert atomic_io.sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def temporary(folder: Path, name: str, kind: str = "tmp") -> Path:
    return folder / f".{name}.{uuid.uuid4().hex}.{kind}"


def fill(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "a").write_text(text)
    return folder


# a process that is killed while it writes: at a rename, numbered from 0
KILLED = """
import os, signal, sys
from pathlib import Path
from cnr_iemn.utils import atomic_io

number, calls, replace = int(sys.argv[2]), [], os.replace

def replaced(*names):
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(names)
    replace(*names)

os.replace = replaced
folder = Path(sys.argv[1])
atomic_io.write_bytes_atomic(folder / "file", b"new")
atomic_io.write_folder_atomic(folder / "x", {"a": b"new"})
"""


@pytest.mark.parametrize(
    ("number", "left", "found"),
    [(0, 1, "old"), (1, 1, "old"), (2, 1, "old"), (3, 2, "old"), (4, 0, "new")],
)
def test_what_a_killed_process_leaves_is_removed_and_the_old_folder_is_there(
    number: int, left: int, found: str, tmp_path: Path
) -> None:
    atomic_io.write_folder_atomic(tmp_path / "x", {"a": b"old"})
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(number)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert ended.returncode == (0 if number == 4 else -9)
    assert len(list(tmp_path.glob(".*"))) == left
    atomic_io.recover_folder(tmp_path / "x")  # what a reader does
    assert (tmp_path / "x" / "a").read_text() == found
    atomic_io._CLEARED.clear()  # another process comes
    atomic_io.write_text_atomic(tmp_path / "other", "text")
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "x" / "a").read_text() == found


def test_leftovers_of_living_processes_and_files_of_others_stay(tmp_path: Path) -> None:
    owned, folder = temporary(tmp_path, "x"), temporary(tmp_path, "y")
    fill(folder, "of a living one")
    link, odd = temporary(tmp_path, "link"), tmp_path / ".notes.tmp"
    (tmp_path / "target").write_text("mine")
    link.symlink_to(tmp_path / "target")
    odd.write_text("mine")
    only = fill(temporary(tmp_path, "bundle", "old"), "the only one")
    holders = [owned.open("w"), os.open(folder, os.O_RDONLY)]
    for holder in holders:
        fcntl.flock(holder, fcntl.LOCK_EX)
    before = sorted(tmp_path.iterdir())
    atomic_io.clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    fill(tmp_path / "bundle", "a newer one")
    holders[0].close()
    os.close(holders[1])
    atomic_io._CLEARED.clear()
    atomic_io.clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([link, odd, tmp_path / "target", tmp_path / "bundle"])
    assert (tmp_path / "bundle" / "a").read_text() == "a newer one"
    assert not only.exists()


def test_a_folder_between_two_renames_is_left_to_its_owner_while_that_lives(tmp_path: Path) -> None:
    old = fill(temporary(tmp_path, "x", "old"), "old")
    new = fill(old.with_suffix(".tmp"), "new")
    holder = os.open(new, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    atomic_io.recover_folder(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    os.close(holder)
    atomic_io.recover_folder(tmp_path / "x")
    assert (tmp_path / "x" / "a").read_text() == "old"


def test_writers_in_one_folder_do_not_take_each_others_files_for_leftovers(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for k in range(50):
            atomic_io._CLEARED.clear()
            atomic_io.write_text_atomic(tmp_path / f"{number}-{k}", str(k))
            atomic_io.write_folder_atomic(tmp_path / f"folder-{number}", {"a": b"%d" % k})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert len(list(tmp_path.iterdir())) == 4 * 51


def test_a_lock_empties_no_file_and_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("mine")
    with atomic_io.exclusive(tmp_path / "lock", pytest.fail):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "lock")
    with (
        pytest.raises(CnrIemnError, match=r"link is a link.*Remove the link"),
        atomic_io.exclusive(tmp_path / "link", pytest.fail),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


def test_a_write_that_fails_names_the_file_and_not_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as raised:
        atomic_io.write_text_atomic(tmp_path / "x", "new")
    assert raised.value.filename == str(tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []
