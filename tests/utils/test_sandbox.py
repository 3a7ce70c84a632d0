"""A worker that dies, hangs or takes too much costs its job and nothing else; its temporary files are gone."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest

from cnr_iemn.ct.io.folders import unpacked
from cnr_iemn.errors import ConfigurationError, RefusalCode, ScanError
from cnr_iemn.utils.sandbox import refusal, run_limited
from cnr_iemn.utils.scratch import scratch_folder
from tests.pipeline import ROOT

PROGRAM = """
import mmap
from cnr_iemn.utils.sandbox import run_limited

reserved = mmap.mmap(-1, 3 * 2**30)

def take(n):
    return len(bytearray(n))

if __name__ == "__main__":
    for _, answer in run_limited(take, [2**29, 2**31], workers=1, memory_bytes=2**30):
        print(answer)
"""


def work(job: str) -> object:
    """Do what the job says."""
    if job == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "exit":
        os._exit(3)
    if job == "hang":
        time.sleep(60)
    if job == "memory":
        return np.ones(2**33, np.uint8).sum()
    if job == "refuse":
        raise ScanError(RefusalCode.NOT_HU, "P012: refused")
    if job == "fault":
        raise KeyError("a fault of the program")
    return job.upper()


@pytest.mark.parametrize("workers", [1, 2])
def test_lost_workers_cost_their_job_only(workers):
    jobs = ["a", "segfault", "b", "exit", "refuse", "c", "memory", "d"]
    answers = dict(run_limited(work, jobs, workers=workers, memory_bytes=2**32))
    assert sorted(answers) == list(range(len(jobs)))
    assert [answers[k] for k in (0, 2, 5, 7)] == ["A", "B", "C", "D"]
    assert "ended by signal 11" in str(answers[1])
    assert "ended by exit code 3" in str(answers[3])
    assert str(answers[4]) == "P012: refused"
    assert "needs more than the 4 GiB of memory" in str(answers[6])
    assert all(isinstance(answers[k], ScanError) for k in (1, 3, 4, 6))


@pytest.mark.skipif(sys.platform != "linux", reason="no limit elsewhere")
def test_what_the_callers_program_takes_is_not_counted(tmp_path):
    """A script's main module is imported by the workers, and torch on many cores reserves gigabytes of addresses."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    allocated, refused = done.stdout.splitlines()
    assert allocated == "536870912", done.stdout + done.stderr
    assert refused.startswith("needs more than the 1 GiB of memory")


@pytest.mark.slow
def test_a_job_that_hangs_is_ended():
    start = time.monotonic()
    answers = dict(run_limited(work, ["hang", "a"], workers=1, seconds=6))  # to start takes a few on a busy machine
    assert "took more than 6 seconds" in str(answers[0])
    assert answers[1] == "A"
    assert time.monotonic() - start < 55


def test_faults_of_the_program_are_raised():
    with pytest.raises(KeyError, match="a fault of the program"):
        list(run_limited(work, ["a", "fault"], workers=1))


def test_a_worker_without_a_further_job_is_gone_when_its_answer_is_used():
    before = set(multiprocessing.active_children())
    for index, _ in run_limited(work, ["a", "b"], workers=1):
        assert len(set(multiprocessing.active_children()) - before) == 1 - index


def test_work_begins_at_once_and_ends_with_whoever_asked_for_it():
    before = set(multiprocessing.active_children())
    answers = run_limited(work, ["hang"], workers=1)
    assert len(set(multiprocessing.active_children()) - before) == 1
    answers.close()
    assert not set(multiprocessing.active_children()) - before


def test_no_jobs_start_nothing():
    assert list(run_limited(work, [], workers=2)) == []


def test_refusals_begin_with_the_scan():
    assert refusal("P012", ScanError(RefusalCode.DAMAGED_PIXELS, "P012/x.dcm: cut")) == "P012/x.dcm: cut"
    lost = ScanError(RefusalCode.TIME_LIMIT, "took more than 3 seconds.")
    assert refusal("P012", lost) == "P012: took more than 3 seconds. Scan refused; other scans continue."
    assert refusal("P012", lost, costs="No DICOM.") == "P012: took more than 3 seconds. No DICOM."


class EndsWorkers:
    """A function that ends every process it is sent to."""

    def __call__(self, job: str) -> str:
        return job

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (5,)


def test_workers_that_cannot_even_start_cost_their_jobs():
    answers = dict(run_limited(EndsWorkers(), ["a", "b"], workers=1))
    assert sorted(answers) == [0, 1]
    assert all("the decoder process ended by exit code 5" in str(answer) for answer in answers.values())


def answers_in_a_worker() -> list[object]:
    return [answer for _, answer in run_limited(work, ["a", "b"], workers=1)]


@pytest.mark.slow
def test_jobs_are_done_in_a_worker_of_joblib_too():
    """Such a worker has a start method of joblib's own, which the processes that it starts do not know."""
    assert joblib.Parallel(n_jobs=2)([joblib.delayed(answers_in_a_worker)()]) == [["A", "B"]]


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


@pytest.mark.slow
def test_a_lost_worker_leaves_no_unpacked_zip(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "P012.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"1")
        archive.writestr("two", b"2")
    jobs = [(end, path) for end in ("signal", "", "deadline", "fault", "")]
    answers = {}
    for index, answer in run_limited(unpack_and, jobs, workers=1, seconds=10):
        answers[index] = answer
        present = sum("one" in files for _, _, files in os.walk(temporary))  # the next scan may be unpacked already
        assert present <= 1, "the files of lost workers take the room of the next scan"
    assert [type(answers[k]) for k in range(5)] == [ScanError, int, ScanError, ScanError, int]
    assert answers[1] == 2
    assert list(temporary.iterdir()) == []


PARENT = """
import sys, time
from tests.utils.test_sandbox import sleep_over_a_file
from cnr_iemn.utils.sandbox import run_limited
from cnr_iemn.utils.scratch import scratch_folder
if __name__ == "__main__":
    print(list(run_limited(sleep_over_a_file, [1.0], workers=1)))
"""


def sleep_over_a_file(seconds: float) -> None:
    """Leave a temporary file behind. Runs in a worker."""
    Path(tempfile.mkdtemp(), "pixels").write_bytes(b"1")
    time.sleep(seconds)


@pytest.mark.slow
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
        with scratch_folder() as first, scratch_folder() as second:
            assert first.is_dir()
            assert second.is_dir()
    remaining = ["another", "cnr-iemn-scratch-being-made", "cnr-iemn-scratch-link", "cnr-iemn-scratch-used"]
    assert sorted(path.name for path in temporary.iterdir()) == remaining


def test_no_room_for_temporary_files(temporary: Path) -> None:
    temporary.rmdir()
    with pytest.raises(ConfigurationError, match=r"No folder for temporary files can be made .* Set TMPDIR"):
        list(run_limited(sleep_over_a_file, [0.0], workers=1))
