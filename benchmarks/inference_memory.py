"""Peak memory of a process and its children, and of predict.py on a long scan."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from benchmarks.common import in_new_process

ROOT = Path(__file__).resolve().parents[1]
_INTERVAL = 0.05  # seconds


def tree_bytes(pid: int) -> int:
    """Return the resident bytes of a process and its descendants (Linux). Shared memory counts for each process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:  # the process has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(tree_bytes(child) for child in children)


class PeakMemory:
    """Context manager that samples the memory of a process and its descendants; ``gib`` is the peak of their sum."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.gib = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.gib = max(self.gib, tree_bytes(self._pid) / 2**30)


def write_long_scan(folder: Path, n_slices: int) -> None:
    """Write a phantom scan of ``n_slices`` slices of 512 x 512 pixels."""
    from cnr_iemn.phantom.dicom_writer import write_series
    from cnr_iemn.phantom.renderer import make_scan

    write_series(folder, make_scan(0, "COVID-19", rows=512, n_slices=(n_slices, n_slices)))


def long_scan_gib(runs: Path, study: str, n_slices: int, folder: Path) -> dict[str, float]:
    """Return the peak memory in GiB of ``predict.py`` on a long scan, by engine, page included.

    Raises:
        RuntimeError: predict.py fails; the message has its output.
    """
    in_new_process(write_long_scan, folder / "long" / "scan", n_slices)
    study_overrides = f"study={study}", f"runs={runs}", "gpus=0"
    return {
        engine: _peak_gib(f"input={folder / 'long'}", f"output={folder / engine}", f"engine={engine}", *study_overrides)
        for engine in ("torch", "openvino")
    }


def _peak_gib(*overrides: str) -> float:
    command = [sys.executable, str(ROOT / "predict.py"), *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with PeakMemory(process.pid) as peak:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{output}")
    return peak.gib
