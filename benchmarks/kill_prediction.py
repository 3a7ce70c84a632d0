"""Crash test: kill -9 and SIGTERM at random moments of predict.py, then one normal run: all files as of a clean run.

python -m benchmarks.kill_prediction --runs runs --study demo --input SCANS --kills 50 --terms 20 --seed 0
python -m benchmarks.kill_prediction --runs runs --study demo --input SCANS --kills 50 --terms 20 --parts 2

With ``--parts`` as many commands work on the output at once, and each of them gets its own signals.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from benchmarks.common import add_study_options, make_parser
from cnr_iemn.inference.answers import FOLDER
from cnr_iemn.utils.atomic_io import sha256_of_file


def start(words: list[str]) -> "subprocess.Popen[bytes]":
    """Start predict.py in a new process group."""
    command = [sys.executable, "predict.py", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def contents(output: Path) -> dict[str, str]:
    """Return the hash of every file that people and programs read, by path."""
    files = (path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(output)): sha256_of_file(path) for path in files}


def n_answers(output: Path) -> int:
    """Return the number of answers."""
    return len(list((output / FOLDER).glob("[!.]*.safetensors")))


def interrupt(processes: "list[subprocess.Popen[bytes]]", number: signal.Signals, rng: random.Random) -> list[int]:
    """Send a signal to each process, half of the times to its group, and return their exit codes."""
    for process in processes:
        with suppress(ProcessLookupError):
            if rng.random() < 0.5:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
    return [process.wait() for process in processes]


def main() -> None:
    """Print the result; exit with 1 where the files differ, or an answer is lost."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    ensemble = ",".join(options.ensemble)
    study = [
        f"runs={options.runs}",
        f"study={options.study}",
        f"ensemble={f'[{ensemble}]' if ',' in ensemble else ensemble}",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        clean, killed = Path(temporary) / "clean", Path(temporary) / "killed"
        words = [*study, f"input={options.input}", "gpus=0", "pages=false"]
        start_time = time.monotonic()
        if start([*words, f"output={clean}"]).wait() not in (0, 1):
            raise SystemExit("predict.py fails without being killed; run it directly to see the error")
        duration = time.monotonic() - start_time
        words.append(f"output={killed}")
        shares = [[f"part={k}", f"parts={options.parts}"] for k in range(options.parts)] if options.parts > 1 else [[]]
        numbers = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
        rng.shuffle(numbers)
        codes: Counter[int] = Counter()
        lost = 0
        for number in numbers:
            before = n_answers(killed)
            processes = [start([*words, *share]) for share in shares]
            time.sleep(rng.uniform(0, duration))
            codes.update(interrupt(processes, number, rng))
            lost += n_answers(killed) < before
            for path in (killed / FOLDER).glob("[!.]*.safetensors"):  # so that later runs have work to do
                if rng.random() < 0.5:
                    path.unlink()
        code = start(words).wait()
        identical = contents(clean) == contents(killed)
        leftovers = [path.name for path in killed.rglob("*.tmp")]
    print(
        f"{options.kills} times kill -9, {options.terms} SIGTERM within {duration:.1f} s each; exit codes {dict(codes)}"
    )
    print(f"last run exited with {code}; files byte-identical to those of a clean run: {identical}")
    print(f"runs after which an answer was gone: {lost}; temporary files left: {leftovers or 'none'}")
    if not identical or leftovers or lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
