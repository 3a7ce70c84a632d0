"""Crash test: kill -9 and SIGTERM at random moments of a watched inbox, then one normal run: files as of a clean run.

python -m benchmarks.kill_inbox --runs runs --study demo --input SCANS --kills 50 --terms 20 --seed 0

Between two runs half of the answered series go back into the inbox, without their answers, so that there is work. A
signal comes at any moment of the time that this work takes.
"""

import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import add_study_options, make_parser
from benchmarks.kill_prediction import EXIT_CODES, Baseline, Harm, interrupt, start, times
from cnr_iemn.service.inbox import DONE, REFUSED
from cnr_iemn.service.outbox import EVENTS, HEARTBEAT, RECORD
from cnr_iemn.utils.atomic_io import sha256_of_file


def contents(outbox: Path) -> dict[str, str]:
    """Return the hash of every file of the answers, by path."""
    files = (path for path in outbox.rglob("*") if path.is_file() and path.name not in (EVENTS, HEARTBEAT))
    return {str(path.relative_to(outbox)): sha256_of_file(path) for path in files}


def series_in(inbox: Path) -> set[str]:
    """Return the series that wait or are put away."""
    folders = (inbox, inbox / DONE, inbox / REFUSED)
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()} - {
        DONE,
        REFUSED,
    }


def serve_all(process: "subprocess.Popen[bytes]", inbox: Path, n_series: int) -> int:
    """Wait until every series is put away, end the process by SIGTERM and return its exit code."""
    while process.poll() is None:
        n_finished = sum(1 for name in (DONE, REFUSED) for path in (inbox / name).glob("*") if path.is_dir())
        if n_finished == n_series:
            process.terminate()
            return process.wait()
        time.sleep(0.1)
    raise SystemExit("predict.py watch=true has ended by itself; run it directly to see the error")


def put_back(inbox: Path, outbox: Path, rng: random.Random) -> None:
    """Move half of the answered series back into the inbox, and remove their answers."""
    for path in sorted((inbox / DONE).glob("*")):
        if rng.random() < 0.5:
            shutil.rmtree(outbox / path.name)
            path.rename(inbox / path.name)


def main() -> None:
    """Print the result; exit with 1 where the files differ, or a series is lost or answered twice."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--input", type=Path, required=True, help="a folder of scans; on the disk of TMPDIR")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    ensemble = ",".join(options.ensemble)
    words = [f"runs={options.runs}", f"study={options.study}", "gpus=0", "pages=false", "watch=true"]
    words += [f"ensemble={f'[{ensemble}]' if ',' in ensemble else ensemble}", "settle_seconds=0.1"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("clean", "killed"):
            shutil.copytree(options.input, folder / name / "in")  # with its times, which series.json has a hash of
        clean, inbox, outbox = folder / "clean", folder / "killed" / "in", folder / "killed" / "out"
        series = series_in(inbox)
        start_time = time.monotonic()
        process = start([*words, f"input={clean / 'in'}", f"output={clean / 'out'}"])
        run = Baseline.of(process, lambda: bool(times(clean / "out", f"*/{RECORD}")))
        serve_all(process, clean / "in", len(series))
        run.duration = time.monotonic() - start_time
        words += [f"input={inbox}", f"output={outbox}"]
        numbers = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
        rng.shuffle(numbers)
        codes: Counter[int] = Counter()
        n_lost = n_twice = 0
        harm = Harm()
        for number in numbers:
            put_back(inbox, outbox, rng)
            before = times(outbox, f"*/{RECORD}")
            process = start(words)
            time.sleep(run.moment(rng, 1 - len(before) / len(series)))
            codes.update(interrupt([process], number, rng))
            harm.add(before, times(outbox, f"*/{RECORD}"))
            finished = {path.name for name in (DONE, REFUSED) for path in (inbox / name).glob("*") if path.is_dir()}
            answered = {path.parent.name for path in outbox.glob(f"*/{RECORD}")}
            n_lost += series_in(inbox) != series or not finished <= answered
            n_twice += not answered <= series
        code = serve_all(start(words), inbox, len(series))
        identical = contents(clean / "out") == contents(outbox)
        leftovers = [path.name for path in (folder / "killed").rglob("*.tmp")]
    print(
        f"{len(series)} series, {run.duration:.1f} s without a signal; {options.kills} times kill -9, "
        f"{options.terms} SIGTERM"
    )
    print(f"exit codes {dict(codes)}, of the last run {code}; files byte-identical to a clean run's: {identical}")
    n_lost, n_twice = n_lost + harm.lost, n_twice + harm.repeated
    print(f"runs after which a series was lost: {n_lost}, answered twice: {n_twice}; leftovers: {leftovers or 'none'}")
    if not identical or leftovers or n_lost or n_twice or not set(codes) <= EXIT_CODES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
