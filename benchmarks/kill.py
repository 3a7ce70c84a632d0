"""Crash test: kill -9 at random moments of prepare.py, then one normal run. The store must equal that of a clean run.

python -m benchmarks.kill data.root=/data/COVID-CT-MD --kills 50 --seed 0

A third of the kills happens at any time of the run, a third while it works on the store, a third while it writes a
scan.
"""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.common import make_parser
from cnr_iemn.utils.atomic_io import sha256_of_file


def start(root: str, cache: Path, size: int) -> "subprocess.Popen[bytes]":
    """Start prepare.py on the cohort with this cache, in a new process group."""
    overrides = ["data=covid_ct_md", root, f"ingest.cache={cache}", f"ingest.size={size}"]
    return subprocess.Popen(
        [sys.executable, "prepare.py", *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def contents(cache: Path) -> dict[str, str]:
    """Return the hash of every file of the store, by path."""
    return {
        str(path.relative_to(cache)): sha256_of_file(path)
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.suffix in {".npy", ".json"} and path.name != "report.json"
    }


def finished_scans(cache: Path) -> list[Path]:
    """Return the scan.json of each finished scan of the store."""
    return sorted(path for path in cache.rglob("scan.json") if not path.parent.name.startswith("."))


def is_writing_scan(cache: Path) -> bool:
    """Return whether a scan is half-written."""
    return any(cache.rglob(".*.part"))


def is_locked(cache: Path) -> bool:
    """Return whether a process holds the lock of a scan."""
    for lock in cache.rglob(".*.lock"):
        with suppress(FileNotFoundError), lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def wait_for(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    """Wait until the condition holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def describe_state(cache: Path, n_scans: int, *, finished: bool) -> str:
    """Return what a run on this cache is doing."""
    if finished:
        return "after its end"
    if is_writing_scan(cache):
        return "while a scan was written"
    if not is_locked(cache):
        return "before or after its work on the store"
    return "after the last scan" if len(finished_scans(cache)) == n_scans else "while a scan was read"


def main() -> None:
    """Print the result; exit with 1 if the stores differ."""
    parser = make_parser(__doc__)
    parser.add_argument("root", help="data.root=FOLDER")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=336)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        clean, killed = Path(temporary) / "clean", Path(temporary) / "killed"
        start_time = time.monotonic()
        process = start(options.root, clean, options.size)
        wait_for(process, lambda: is_locked(clean))
        startup = time.monotonic() - start_time
        if process.wait() not in (0, 1):
            raise SystemExit("prepare.py fails without being killed; run it directly to see the error")
        duration = time.monotonic() - start_time
        n_scans = len(finished_scans(clean))
        states: Counter[str] = Counter()
        for kill in range(options.kills):
            process = start(options.root, killed, options.size)
            if kill % 3 == 1:
                wait_for(process, lambda: is_locked(killed))
            elif kill % 3 == 2:
                wait_for(process, lambda: is_writing_scan(killed))
            time.sleep(rng.uniform(0, (duration, duration - startup, 0.03)[kill % 3]))
            states[describe_state(killed, n_scans, finished=process.poll() is not None)] += 1
            if rng.random() < 0.5:
                process.kill()  # its workers stop when they notice its death
            else:
                with suppress(ProcessLookupError):  # it and its workers have ended
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for scan in finished_scans(killed):  # so that later runs have work to do
                if rng.random() < 0.8:
                    shutil.rmtree(scan.parent, ignore_errors=True)
        code = start(options.root, killed, options.size).wait()
        identical = contents(clean) == contents(killed)
        leftovers = [path.name for path in killed.rglob(".*") if path.is_dir()]
    print(f"{options.kills} kills within {duration:.1f} s each; last run exited with {code}")
    print("killed " + ", ".join(f"{state}: {count}" for state, count in sorted(states.items())))
    print(f"store byte-identical to that of a clean run: {identical}; leftover folders: {leftovers or 'none'}")
    if not identical or leftovers:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
