"""The memory of a process with those that it has started, and of predict.py on a long scan."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_EVERY = 0.05  # seconds


def tree_bytes(pid: int) -> int:
    """Return the resident bytes of a process and all below it (Linux); what they share counts for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:  # it has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(tree_bytes(child) for child in children)


class PeakMemory:
    """Watches a process and those below it within a with-block; ``gib`` is their largest sum."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.gib = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self.gib = max(self.gib, tree_bytes(self._pid) / 2**30)


def write_long_scan(folder: Path, n_slices: int) -> None:
    """Write a phantom scan of so many slices of 512 x 512 pixels, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_write, folder, n_slices).result()


def _write(folder: Path, n_slices: int) -> None:
    from cnr_iemn.cohort.phantom.dicom import write_series
    from cnr_iemn.cohort.phantom.scan import make_scan

    write_series(folder, make_scan(0, "COVID-19", rows=512, n_slices=(n_slices, n_slices)))


def long_scan_gib(runs: Path, study: str, n_slices: int, folder: Path) -> dict[str, float]:
    """Return the peak memory of ``predict.py`` on a long scan by engine, page included.

    Raises RuntimeError where it fails.
    """
    write_long_scan(folder / "long" / "scan", n_slices)
    study_words = f"study={study}", f"runs={runs}", "gpus=0"
    return {
        engine: _peak_gib(f"input={folder / 'long'}", f"output={folder / engine}", f"engine={engine}", *study_words)
        for engine in ("torch", "openvino")
    }


def _peak_gib(*words: str) -> float:
    command = [sys.executable, str(ROOT / "predict.py"), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with PeakMemory(process.pid) as peak:
        said, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return peak.gib
