"""Run one job a scan in processes with limits, so that a file that kills its decoder costs its scan only.

Decoders written in C end the process on some damaged files; a hostile one takes all memory or never comes back.
"""

import ctypes
import pickle
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from typing import Generic, TypeVar, cast

import cv2
from pebble import ProcessExpired, ProcessPool

from cnr_iemn.errors import REFUSED, RefusalCode, ScanError
from cnr_iemn.utils.processes import spawn_context
from cnr_iemn.utils.scratch import remove_ownerless, scratch_folder

Job = TypeVar("Job")
Result = TypeVar("Result")

MEMORY_BYTES = 6 * 2**30
"""Address space of a worker, beside what it starts with; a scan of 512 x 512 x 300 takes about a fifth of it."""
SECONDS = 900.0
"""For one scan, from its first file to its last; a usual one takes about two."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def run_limited(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> Generator[tuple[int, Result | ScanError], None, None]:
    """Start the first jobs; yield index and result of each as it is done.

    At the end, which may be the generator's ``close()``, the workers and their temporary files are gone.

    Args:
        function: Picklable, as the jobs are.
        jobs: One for each scan; taken when a worker is free, so that each has one job and one result at most.
        workers: Processes.
        memory_bytes: Address space of a worker beside what it starts with.
        seconds: For one job.

    Yields:
        Index of the job, and its result or a ScanError: one that it raised, or the reason why its worker was lost.

    Raises:
        Exception: Any other that the function raised.
        ConfigurationError: No temporary folder can be made.
    """
    results = _run_jobs(function, jobs, workers, memory_bytes, seconds)
    next(results)  # a generator starts nothing before its first item
    return cast(Generator[tuple[int, Result | ScanError], None, None], results)


def refusal(scan_id: str, error: ScanError, *, costs: str = REFUSED) -> str:
    """Return the reason as sentences that begin with the scan; for a lost worker also what it ``costs``."""
    reason = str(error)
    return reason if reason.startswith(scan_id) else f"{scan_id}: {reason} {costs}"


@dataclass
class _Worker:
    """A pool of one process. Those of a larger pool share a pipe, which a killed one may leave locked or cut."""

    memory_bytes: int
    seconds: float
    scratch: Path
    pool: ProcessPool = field(init=False)

    def start(self, task: bytes) -> "Future[object]":
        """Start a process with its first task."""
        self.scratch.mkdir(exist_ok=True)
        self.pool = ProcessPool(1, 0, _set_limits, (self.memory_bytes, str(self.scratch)), spawn_context())
        return self.schedule(task)

    def schedule(self, task: bytes) -> "Future[object]":
        """Give the process a task."""
        return self.pool.schedule(_run_task, (task, self.memory_bytes, self.scratch), timeout=self.seconds)

    def stop(self) -> None:
        """End the process and remove its temporary files; a killed one has not."""
        self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _run_jobs(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, memory_bytes: int, seconds: float
) -> Generator[tuple[int, Result | ScanError] | None, None, None]:
    """Do the work of ``run_limited``; yields None once the workers have been started."""
    # pickled here: a task that ends the process while it is unpickled is then lost as any other
    tasks = ((index, pickle.dumps((function, job))) for index, job in enumerate(jobs))
    running: dict[Future[object], tuple[_Worker, int, bytes]] = {}
    second_chance: set[int] = set()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        for number, (index, task) in enumerate(islice(tasks, workers)):
            worker = _Worker(memory_bytes, seconds, scratch / str(number))
            running[worker.start(task)] = worker, index, task
            stack.callback(worker.stop)
        yield None
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, index, task = running.pop(future)
                error = future.exception()
                if error is not None:
                    worker.stop()
                    if isinstance(error, BrokenProcessPool) and index not in second_chance:  # it died between two jobs
                        second_chance.add(index)
                        running[worker.start(task)] = worker, index, task
                        continue
                following = next(tasks, None)
                if following is not None:
                    start = worker.schedule if error is None else worker.start
                    running[start(following[1])] = worker, *following
                elif error is None:
                    worker.stop()  # now: a long scan leaves it with a gigabyte or two, and its result is yet to be used
                result = future.result() if error is None else _describe_loss(error, seconds)
                if isinstance(result, Exception) and not isinstance(result, ScanError):
                    raise result
                yield index, cast(Result | ScanError, result)


class LimitedProcess(Generic[Job, Result]):
    """A process with limits that runs a function on one job at a time; it starts with the first.

    Args:
        function: Picklable, as the jobs are.
    """

    def __init__(self, function: Callable[[Job], Result]) -> None:
        self._function = function
        self._stack = ExitStack()
        self._worker: _Worker | None = None

    def run(self, job: Job) -> Result | ScanError:
        """Return the function's result, or a ScanError: one that it raised, or the reason why the process was lost.

        A lost process has a second one: what ends this command may have ended the first. Raises any other exception of
        the function.
        """
        task = pickle.dumps((self._function, job))
        error = self._attempt(task)
        if isinstance(error, ProcessExpired | BrokenProcessPool):
            error = self._attempt(task)
        if isinstance(error, BaseException):
            return _describe_loss(error, SECONDS)
        (result,) = error
        if isinstance(result, Exception) and not isinstance(result, ScanError):
            raise result
        return cast(Result | ScanError, result)

    def close(self) -> None:
        """End the process and remove its temporary files."""
        self._stop()
        self._stack.close()

    def _attempt(self, task: bytes) -> tuple[object] | BaseException:
        """Return the result in a tuple, or the error by which the process was lost."""
        if self._worker is None:
            scratch = self._stack.enter_context(scratch_folder())
            self._worker = _Worker(MEMORY_BYTES, SECONDS, scratch / "0")
            future = self._worker.start(task)
        else:
            future = self._worker.schedule(task)
        error = future.exception()
        if error is None:
            return (future.result(),)
        self._stop()
        return error

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def _describe_loss(error: BaseException, seconds: float) -> ScanError:
    if isinstance(error, TimeoutError):
        return ScanError(RefusalCode.TIME_LIMIT, f"took more than {seconds:.0f} seconds.")
    if isinstance(error, ProcessExpired):
        code = int(error.exitcode)
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return ScanError(RefusalCode.DECODER_CRASH, f"the decoder process ended by {end}.")
    problem = f"the decoder process cannot be started or reached ({type(error).__name__})."
    return ScanError(RefusalCode.DECODER_CRASH, problem)


def _set_limits(memory_bytes: int, scratch: str) -> None:
    """Limit this worker. Temporary files go to ``scratch``."""
    tempfile.tempdir = scratch
    if sys.platform == "linux":  # macOS has no such limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = _address_space() + memory_bytes
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _keep_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)  # there is a worker for each core


def _address_space() -> int:
    """Return the bytes of this process: many for what its caller's main module imports, and more the more cores."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _keep_freed_memory() -> None:
    """Have glibc keep what one volume leaves for the next: fetching every page anew takes a twentieth of the time."""
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)


def _run_task(task: bytes, memory_bytes: int, scratch: Path) -> object:
    """Return the function's result, or the exception that it raised. Runs in the worker."""
    try:
        function, job = pickle.loads(task)
        return function(job)
    except MemoryError:
        return ScanError(
            RefusalCode.MEMORY_LIMIT,
            f"needs more than the {memory_bytes / 2**30:.0f} GiB of memory that reading a scan may take: far "
            "larger than a chest CT, or damaged. Look at its files, or give fewer slices.",
        )
    except Exception as error:  # noqa: BLE001 - any fault belongs to the caller, who raises it
        return error
    finally:
        caller = parent_process()
        if caller is not None and not caller.is_alive():  # killed, so that it cannot clear up itself
            remove_ownerless(scratch.parent)
