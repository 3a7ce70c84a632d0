"""Crash test: kill -9 and SIGTERM at random moments of predict.py, then one normal run: all files as of a clean run.

python -m benchmarks.kill_prediction --runs runs --study demo --input SCANS --kills 50 --terms 20 --seed 0
python -m benchmarks.kill_prediction --runs runs --study demo --input SCANS --kills 50 --terms 20 --parts 2

With ``--parts`` as many commands work on the output at once, and each of them gets the signal. Between two runs half of
the answers go, so that there is work. A signal comes at any moment of the time that this work takes.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import add_study_options, make_parser
from cnr_iemn.inference.answers import FOLDER
from cnr_iemn.utils.atomic_io import sha256_of_file

EXIT_CODES = {0, 1, 143, -signal.SIGTERM, -signal.SIGKILL}
"""Of a run that a signal has ended, at its very start too, or that was done before."""


def start(words: list[str]) -> "subprocess.Popen[bytes]":
    """Start predict.py in a new process group."""
    command = [sys.executable, "predict.py", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def contents(output: Path) -> dict[str, str]:
    """Return the hash of every file that people and programs read, by path."""
    files = (path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(output)): sha256_of_file(path) for path in files}


def answers(output: Path) -> dict[str, int]:
    """Return when each answer was written, by its file, ns."""
    return times(output, f"{FOLDER}/[!.]*.safetensors")


def times(folder: Path, pattern: str) -> dict[str, int]:
    """Return the times of modification of files, ns."""
    return {str(path): path.stat().st_mtime_ns for path in folder.glob(pattern)}


@dataclass
class Baseline:
    """A run without a signal. Seconds from its start to its first answer, and to its end."""

    startup: float
    duration: float

    @classmethod
    def of(cls, process: "subprocess.Popen[bytes]", is_answered: Callable[[], bool]) -> "Baseline":
        """Wait for the first answer of a process that was just started."""
        start_time = time.monotonic()
        while process.poll() is None and not is_answered():
            time.sleep(0.05)
        return cls(time.monotonic() - start_time, 0.0)

    def moment(self, rng: random.Random, share: float) -> float:
        """Return a random second of a run that has this share of the work left."""
        return rng.uniform(0, self.startup + (self.duration - self.startup) * share)


@dataclass
class Harm:
    """Runs after which answers of earlier runs were gone, or had been written again."""

    lost: int = 0
    repeated: int = 0

    def add(self, before: dict[str, int], after: dict[str, int]) -> None:
        """Compare the times of answers before and after a run."""
        self.lost += not before.keys() <= after.keys()
        self.repeated += any(after.get(name, time_) != time_ for name, time_ in before.items())


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
        process = start([*words, f"output={clean}"])
        run = Baseline.of(process, lambda: bool(answers(clean)))
        if process.wait() not in (0, 1):
            raise SystemExit("predict.py fails without being killed; run it directly to see the error")
        run.duration = time.monotonic() - start_time
        n_scans = len(answers(clean))
        words.append(f"output={killed}")
        shares = [[f"part={k}", f"parts={options.parts}"] for k in range(options.parts)] if options.parts > 1 else [[]]
        numbers = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
        rng.shuffle(numbers)
        codes: Counter[int] = Counter()
        harm = Harm()
        for number in numbers:
            before = answers(killed)
            processes = [start([*words, *share]) for share in shares]
            time.sleep(run.moment(rng, 1 - len(before) / n_scans))
            codes.update(interrupt(processes, number, rng))
            harm.add(before, answers(killed))
            for path in (killed / FOLDER).glob("[!.]*.safetensors"):  # so that later runs have work to do
                if rng.random() < 0.5:
                    path.unlink()
        code = start(words).wait()
        identical = contents(clean) == contents(killed)
        leftovers = [path.name for path in killed.rglob("*.tmp")]
    print(
        f"{n_scans} scans, {run.duration:.1f} s without a signal; {options.kills} times kill -9, "
        f"{options.terms} SIGTERM; exit codes {dict(codes)}"
    )
    print(f"last run exited with {code}; files byte-identical to those of a clean run: {identical}")
    print(
        f"runs after which an answer was gone: {harm.lost}, given twice: {harm.repeated}; temporary files left: "
        f"{leftovers or 'none'}"
    )
    if not identical or leftovers or harm.lost or harm.repeated or not set(codes) <= EXIT_CODES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
