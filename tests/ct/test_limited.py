"""A worker that dies, hangs or takes too much costs its job and nothing else."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cnr_iemn.ct.limited import refusal, run_limited
from cnr_iemn.errors import ScanError
from tests.pipeline import ROOT

PROGRAM = """
import mmap
from cnr_iemn.ct.limited import run_limited

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
        raise ScanError("P012: refused")
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
    taken, refused = done.stdout.splitlines()
    assert taken == "536870912", done.stdout + done.stderr
    assert refused.startswith("needs more than the 1 GiB of memory")


def test_a_job_that_hangs_is_ended():
    start = time.monotonic()
    answers = dict(run_limited(work, ["hang", "a"], workers=1, seconds=3))
    assert "took more than 3 seconds" in str(answers[0])
    assert answers[1] == "A"
    assert time.monotonic() - start < 30


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
    assert refusal("P012", ScanError("P012/x.dcm: cut")) == "P012/x.dcm: cut"
    lost = ScanError("took more than 3 seconds.")
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
