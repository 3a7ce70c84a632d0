"""kill -9 at random moments of prepare.py, then one normal run: is the store what an undisturbed one is?

python -m benchmarks.kill data.root=/data/COVID-CT-MD --kills 50 --seed 0
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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


def main() -> None:
    """Print what was found; exit with 1 where the stores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="data.root=FOLDER")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96)
    words = parser.parse_args()
    draw = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, disturbed = Path(temporary) / "undisturbed", Path(temporary) / "disturbed"
        began = time.monotonic()
        if start(words.root, undisturbed, words.size).wait() not in (0, 1):
            raise SystemExit("prepare.py fails undisturbed: run it by hand to see why")
        whole = time.monotonic() - began
        partial = 0
        for _ in range(words.kills):
            process = start(words.root, disturbed, words.size)
            time.sleep(draw.uniform(0, whole))
            if draw.random() < 0.5:
                os.kill(process.pid, signal.SIGKILL)  # its workers go on until they see that it is gone
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done = [path for path in disturbed.rglob("scan.json") if not path.parent.name.startswith(".")]
            partial += 0 < len(done) < len(list(undisturbed.rglob("scan.json")))
            if done and draw.random() < 0.7:  # or every later kill would find a finished store
                shutil.rmtree(draw.choice(done).parent)
        code = start(words.root, disturbed, words.size).wait()
        same = contents(undisturbed) == contents(disturbed)
        left = [path.name for path in disturbed.rglob(".*") if path.is_dir()]
    print(f"{words.kills} kills within {whole:.1f} s each, {partial} of them in the middle; last run ended with {code}")
    print(f"store byte-identical to the undisturbed one: {same}; folders left behind: {left or 'none'}")
    if not same or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
