"""Temporary files are gone after a run, whoever was killed."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from cnr_iemn.ct.archive import unpacked
from cnr_iemn.ct.limited import run_limited
from cnr_iemn.ct.scratch import scratch_folder
from cnr_iemn.errors import ConfigurationError, ScanError
from tests.pipeline import ROOT


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def unpack_and(job: tuple[str, Path]) -> int:
    """Unpack a zip and meet an end, or none, while its files are there. Runs in a worker."""
    end, path = job
    with unpacked(path, "P012") as folder:
        count = len(list(folder.iterdir()))
        if end == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "deadline":
            time.sleep(60)
        if end == "fault":
            os._exit(3)
    return count


def test_a_lost_worker_leaves_no_unpacked_zip(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "P012.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"1")
        archive.writestr("two", b"2")
    jobs = [(end, path) for end in ("signal", "", "deadline", "fault", "")]
    answers = {}
    for index, answer in run_limited(unpack_and, jobs, workers=1, seconds=8):
        answers[index] = answer
        there = sum("one" in files for _, _, files in os.walk(temporary))  # the next scan may be unpacked already
        assert there <= 1, "the files of lost workers take the room of the next scan"
    assert [type(answers[k]) for k in range(5)] == [ScanError, int, ScanError, ScanError, int]
    assert answers[1] == 2
    assert list(temporary.iterdir()) == []


PARENT = """
import sys, time
from tests.ct.test_scratch import sleep_over_a_file
from cnr_iemn.ct.limited import run_limited
if __name__ == "__main__":
    print(list(run_limited(sleep_over_a_file, [1.0], workers=1)))
"""


def sleep_over_a_file(seconds: float) -> None:
    """Leave a temporary file behind. Runs in a worker."""
    Path(tempfile.mkdtemp(), "pixels").write_bytes(b"1")
    time.sleep(seconds)


def test_workers_of_a_killed_caller_clear_up(tmp_path: Path) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "tmp"
    script.write_text(PARENT)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment) as parent:
        _wait_for(lambda: bool(list(folder.rglob("pixels"))))
        parent.send_signal(signal.SIGKILL)
    assert list(folder.iterdir()) != []
    _wait_for(lambda: not list(folder.iterdir()))


def _wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_killed_run_left_is_removed_by_the_next(temporary: Path) -> None:
    for name in ("left", "used", "being-made"):
        (temporary / f"cnr-iemn-scratch-{name}").mkdir()
        (temporary / f"cnr-iemn-scratch-{name}" / "pixels").write_bytes(b"1")
    (temporary / "another").mkdir()
    (temporary / "another" / ".lock").touch()
    (temporary / "cnr-iemn-scratch-link").symlink_to(temporary / "another", target_is_directory=True)
    (temporary / "cnr-iemn-scratch-left" / ".lock").touch()
    with (temporary / "cnr-iemn-scratch-used" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with scratch_folder() as one, scratch_folder() as two:
            assert one.is_dir()
            assert two.is_dir()
    kept = ["another", "cnr-iemn-scratch-being-made", "cnr-iemn-scratch-link", "cnr-iemn-scratch-used"]
    assert sorted(path.name for path in temporary.iterdir()) == kept


def test_no_room_for_temporary_files(temporary: Path) -> None:
    temporary.rmdir()
    with pytest.raises(ConfigurationError, match=r"No folder for temporary files can be made .* Set TMPDIR"):
        list(run_limited(sleep_over_a_file, [0.0], workers=1))
