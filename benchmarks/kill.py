"""kill -9 at random moments of prepare.py, then one normal run: is the store what an undisturbed one is?

python -m benchmarks.kill data.root=/data/COVID-CT-MD --kills 50 --seed 0

A third of the kills comes at any moment of the run, a third during its work on the store, a third as it writes a scan.
"""

import argparse
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

from cnr_iemn.files import sha256_of_file


def start(root: str, cache: Path, size: int) -> "subprocess.Popen[bytes]":
    """Start prepare.py on the cohort with this cache, in a process group of its own."""
    words = ["data=covid_ct_md", root, f"ingest.cache={cache}", f"ingest.size={size}"]
    return subprocess.Popen(
        [sys.executable, "prepare.py", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def contents(cache: Path) -> dict[str, str]:
    """Return the hash of every file of the store by its path; source.json is the same for the same files."""
    return {
        str(path.relative_to(cache)): sha256_of_file(path)
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.suffix in {".npy", ".json"} and path.name != "report.json"
    }


def finished(cache: Path) -> list[Path]:
    """Return scan.json of each scan that is in the store."""
    return sorted(path for path in cache.rglob("scan.json") if not path.parent.name.startswith("."))


def writes(cache: Path) -> bool:
    """Tell whether a scan is half-written."""
    return any(cache.rglob(".*.part"))


def works(cache: Path) -> bool:
    """Tell whether a process has the lock of a store."""
    for lock in cache.rglob(".lock"):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def wait_for(process: "subprocess.Popen[bytes]", what: Callable[[], bool]) -> None:
    """Wait until that is so, or the process has ended."""
    while process.poll() is None and not what():
        time.sleep(0.002)


def moment(cache: Path, scans: int, ended: bool) -> str:
    """Say what a run on this cache is at."""
    if ended:
        return "after its end"
    if writes(cache):
        return "while a scan was half-written"
    if not works(cache):
        return "before or after its work on the store"
    return "with all scans there" if len(finished(cache)) == scans else "while scans were being read"


def main() -> None:
    """Print what was found; exit with 1 where the stores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="data.root=FOLDER")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=336)
    words = parser.parse_args()
    draw = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, disturbed = Path(temporary) / "undisturbed", Path(temporary) / "disturbed"
        began = time.monotonic()
        process = start(words.root, undisturbed, words.size)
        wait_for(process, lambda: works(undisturbed))
        startup = time.monotonic() - began
        if process.wait() not in (0, 1):
            raise SystemExit("prepare.py fails undisturbed: run it by hand to see why")
        whole = time.monotonic() - began
        scans = len(finished(undisturbed))
        when: Counter[str] = Counter()
        for kill in range(words.kills):
            process = start(words.root, disturbed, words.size)
            if kill % 3 == 1:
                wait_for(process, lambda: works(disturbed))
            elif kill % 3 == 2:
                wait_for(process, lambda: writes(disturbed))
            time.sleep(draw.uniform(0, (whole, whole - startup, 0.03)[kill % 3]))
            when[moment(disturbed, scans, process.poll() is not None)] += 1
            if draw.random() < 0.5:
                process.kill()  # its workers go on until they see that it is gone
            else:
                with suppress(ProcessLookupError):  # it has ended by itself, and so have its workers
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for scan in finished(disturbed):  # or every later kill would find a finished store
                if draw.random() < 0.8:
                    shutil.rmtree(scan.parent, ignore_errors=True)
        code = start(words.root, disturbed, words.size).wait()
        same = contents(undisturbed) == contents(disturbed)
        left = [path.name for path in disturbed.rglob(".*") if path.is_dir()]
    print(f"{words.kills} kills within {whole:.1f} s each; last run ended with {code}")
    print("killed " + ", ".join(f"{moment}: {count}" for moment, count in sorted(when.items())))
    print(f"store byte-identical to the undisturbed one: {same}; folders left behind: {left or 'none'}")
    if not same or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
