"""Run one job a scan in processes of their own, with limits, so that a file that kills its decoder costs its scan only.

Decoders written in C end the process on some damaged files; a hostile one takes all memory or never comes back.
"""

import ctypes
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar, cast

import cv2

from cnr_iemn.ct.scratch import remove_if_left, scratch_folder
from cnr_iemn.errors import REFUSED, ScanError

Job = TypeVar("Job")
Result = TypeVar("Result")

MEMORY_BYTES = 6 * 2**30
"""Address space of a worker, beside what it starts with; a scan of 512 x 512 x 300 takes about a fifth of it."""
SECONDS = 900.0
"""For one scan, from its first file to its last; a usual one takes about two."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h

# spawn: a fork would copy the threads' locks of torch and OpenCV
_CONTEXT = get_context("spawn")


@dataclass
class _Worker(Generic[Job, Result]):
    """One process and what it is at. ``scratch``: folder of its temporary files; ``job``: index of the one it has."""

    function: Callable[[Job], Result]
    memory_bytes: int
    scratch: Path
    job: int = -1
    deadline: float = 0.0
    process: BaseProcess = field(init=False)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process, which then waits for a job."""
        self.pipe, theirs = _CONTEXT.Pipe()
        self.scratch.mkdir(exist_ok=True)
        arguments = (self.function, theirs, self.memory_bytes, str(self.scratch))
        self.process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that our end says EOF when the worker is gone

    def restart(self) -> None:
        """Put a new process in the place of one that is dead or stuck."""
        self.end()
        self.start()

    def end(self) -> None:
        """Stop the process, whatever it does, and remove its temporary files, which it may have had no time for."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def run_limited(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> Generator[tuple[int, Result | ScanError], None, None]:
    """Start the first jobs; give index and result of each as it is done, a ScanError where the worker was lost on it.

    ``function`` and the jobs must be picklable; other exceptions than a ScanError that it raises are raised here.
    At the end, which may be its ``close()``, the workers and what they write to temporary files are gone.
    """
    answers = _answers(function, jobs, workers, memory_bytes, seconds)
    next(answers)  # a generator starts nothing before it is asked
    return cast(Generator[tuple[int, Result | ScanError], None, None], answers)


def _answers(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, memory_bytes: int, seconds: float
) -> Generator[tuple[int, Result | ScanError] | None, None, None]:
    """Do the work of ``run_limited``; gives None once the workers have been started."""
    waiting = iter(enumerate(jobs))
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        pool: list[_Worker[Job, Result]] = []
        for number in range(min(workers, len(jobs))):
            pool.append(_Worker(function, memory_bytes, scratch / str(number)))
            stack.callback(pool[-1].end)
        busy = [worker for worker in pool if _start(worker, waiting, seconds)]
        yield None
        while busy:
            left = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], timeout=max(left, 0))
            now = time.monotonic()
            for worker in [w for w in busy if w.pipe in ready or w.deadline <= now]:
                index, answer = worker.job, _answer(worker, seconds)
                if isinstance(answer, _Lost):
                    worker.restart()
                    answer = ScanError(answer.reason)
                if not _start(worker, waiting, seconds):
                    busy.remove(worker)
                    worker.end()  # now: a long scan leaves it with a gigabyte or two, and its answer is yet to be used
                if isinstance(answer, Exception) and not isinstance(answer, ScanError):
                    raise answer
                yield index, answer


def refusal(scan_id: str, error: ScanError, *, costs: str = REFUSED) -> str:
    """Return the reason as sentences that begin with the scan; for a lost worker also what it ``costs``."""
    reason = str(error)
    return reason if reason.startswith(scan_id) else f"{scan_id}: {reason} {costs}"


@dataclass(frozen=True)
class _Lost:
    reason: str


def _start(worker: _Worker[Job, Result], waiting: Iterator[tuple[int, Job]], seconds: float) -> bool:
    """Give the worker the next job, if there is one."""
    following = next(waiting, None)
    if following is None:
        return False
    worker.job, job = following
    worker.deadline = time.monotonic() + seconds
    try:
        worker.pipe.send(job)
    except (BrokenPipeError, ConnectionResetError):  # it died after its last answer
        worker.restart()
        with suppress(BrokenPipeError, ConnectionResetError):  # one that dies at once is found lost with this job
            worker.pipe.send(job)
    return True


def _answer(worker: _Worker[Job, Result], seconds: float) -> Result | Exception | _Lost:
    if not worker.pipe.poll():
        return _Lost(f"took more than {seconds:.0f} seconds.")
    try:
        answer: Result | Exception = worker.pipe.recv()
    except (EOFError, OSError):  # OSError: it died while it answered
        worker.process.join(10)
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return _Lost(f"the decoder process ended by {how}.")
    return answer


def _keep_freed_memory() -> None:
    """Have glibc keep what one volume leaves for the next: fetching every page anew takes a twentieth of the time."""
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)


def _address_space() -> int:
    """Return the bytes of this process: many for what its caller's main module imports, and more the more cores."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _serve(function: Callable[[Job], Result], pipe: Connection, memory_bytes: int, scratch: str) -> None:
    """Answer jobs until the pipe closes. Runs in the worker."""
    tempfile.tempdir = scratch  # the folder of everything that the tempfile module makes from here on
    if sys.platform == "linux":  # macOS has no such limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = _address_space() + memory_bytes
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _keep_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)  # there is a worker for each core
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            try:
                answer: object = function(job)
            except MemoryError:
                answer = ScanError(
                    f"needs more than the {memory_bytes / 2**30:.0f} GiB of memory that reading a scan may take: far "
                    "larger than a chest CT, or damaged. Look at its files, or give fewer slices."
                )
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller, who raises it
                answer = error
            pipe.send(answer)
    remove_if_left(Path(scratch).parent)  # only if the caller was killed; else it does so itself
