"""How long does stage 2 take? aggregate.py itself on a simulated study of the paper's size.

python -m benchmarks.aggregate --json aggregate.json

Writes a study as train.py leaves it: predictions of four backbones for 307 scans of 150 slices, split as in the paper,
and a slice store whose pixels are those of one simulated scan under 307 names. Then runs the command, once for the
paper's tables with intervals alone and once with everything that is on by default; seconds of wall clock, start-up
included, peak memory of the process, and the seconds of each part as it prints them. The answers mean nothing.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cnr_iemn.cohort.store import PixelSettings, StoredScan
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.files import json_text
from cnr_iemn.patients.predictions import write_predictions
from cnr_iemn.permissions import Permissions
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BACKBONES, SPGC_CLASSES
from tests.builders import FakeScan, make_predictions

COUNTS = {"Normal": (76, 24, 30), "COVID-19": (171, 55, 55), "CAP": (60, 19, 25)}
"""Scans of each class, for validation, slice-labelled."""
N_SLICES = 150
LOOKALIKES = 0.2
"""Share of scans whose slices look like another class, so that the booster has something to learn."""
WAYS = {
    "the paper's tables with intervals": ("permutations=0", "methods=false", "refits=0"),
    "all that is on by default": (),
}
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Timed:
    """One run of the command. ``cpu_seconds``: of its cores, which other work disturbs less. ``gib``: peak memory.

    ``parts``: seconds as it prints them, and of start, reading, baselines and the tables' own figures together.
    """

    seconds: float
    cpu_seconds: float
    gib: float
    parts: dict[str, float]


def paper_scans() -> dict[str, FakeScan]:
    """Return 307 scans with the paper's classes, split and slice labels."""
    return {
        f"{label}-{k:03d}": FakeScan(label, VALIDATION if k < held_out else TRAINING, N_SLICES, k % n < labelled)
        for label, (n, held_out, labelled) in COUNTS.items()
        for k in range(n)
    }


def write_study(folder: Path, size: int) -> None:
    """Write runs/paper-size with a finished run of each backbone, and the store that they name."""
    scans = paper_scans()
    rng = np.random.default_rng(0)
    looks = {
        name: FakeScan(**{**vars(scan), "label": str(rng.choice(SPGC_CLASSES))}) if rng.random() < LOOKALIKES else scan
        for name, scan in scans.items()
    }
    allowed = vars(Permissions())
    ingest = {"size": size, "window": [-1000.0, 400.0], "crop": "none", **allowed}
    store = folder / "cache" / "simulated" / PixelSettings(size=size).fingerprint()
    write_store(store, scans, size)
    for model, info in BACKBONES.items():
        run = RunFolder.of(folder / "runs", "paper-size", model, "seed0")
        network = {"image_size": info.image_size, "position": "both", "library": "torchvision", "weights": "none"}
        data = {"split": {"seed": 0, "file": None}, "exclude": [], "shuffle_training_labels": False}
        configuration = {"model": network, "ingest": ingest, "lungs": "pleura", "data": data}
        cohort = {"name": "simulated", "root": "simulated", "n_scans": len(scans)}
        made_with = {"hardware": "simulated", "versions": {}}
        run.begin({"configuration": configuration, "cohort": cohort, "store": str(store), **made_with}, "")
        made = make_predictions(model, looks, skill=0.5, checkpoint="last", store=store.name)
        made.table["label"] = made.table["scan_id"].map({name: scan.label for name, scan in scans.items()}).astype(str)
        made.table["used_for_selection"] = False
        write_predictions(run.predictions, made)
        run.end(status="finished")


def write_store(root: Path, scans: dict[str, FakeScan], size: int) -> None:
    """Write one scan's grey slices and lung mask, linked under every name; all have as many slices."""
    rng = np.random.default_rng(0)
    (n_slices,) = {scan.n_slices for scan in scans.values()}
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    inside = (np.hypot(rows, (np.abs(columns) - 0.22) * 1.8) < 0.3).astype(np.uint8)  # a fifth to a third of the image
    grey = rng.integers(0, 256, (n_slices, size, size), dtype=np.uint8)
    for scan_id in scans:
        scan = root / scan_id
        scan.mkdir(parents=True)
        if scan_id == next(iter(scans)):
            np.save(scan / "grey.npy", grey)
            np.save(scan / "lungs.npy", np.packbits(np.broadcast_to(inside, grey.shape), axis=-1))
        else:
            for name in ("grey.npy", "lungs.npy"):
                (scan / name).hardlink_to(root / next(iter(scans)) / name)
        z_mm = tuple(float(-2 * k) for k in range(n_slices))
        litres = float(rng.uniform(2.5, 6.0))
        stored = StoredScan(scan_id, n_slices, size, (2.0, 0.7, 0.7), z_mm, litres, (), False, scan_id, scan_id)
        (scan / "scan.json").write_text(json_text(asdict(stored)), encoding="utf-8")


def run_command(folder: Path, words: tuple[str, ...]) -> Timed:
    """Run aggregate.py in a process of its own. Raises RuntimeError with what it said where it fails."""
    command = [sys.executable, str(ROOT / "aggregate.py"), f"runs={folder / 'runs'}", "study=paper-size", *words]
    with (folder / "said.txt").open("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # as getrusage, of this child alone
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    (line,) = (line for line in text.splitlines() if re.fullmatch(r"(.+ [0-9.]+ s(; )?)+", line))
    parts = {part.rsplit(" ", 2)[0]: float(part.rsplit(" ", 2)[1]) for part in line.split("; ")}
    parts["all else"] = seconds - sum(parts.values())
    return Timed(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, parts)


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="pixels of the store's slices; 336 as they really are")
    parser.add_argument("--times", type=int, default=3, help="runs of each, of which the fastest counts")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, given.size)
        runs = {way: [run_command(folder, words) for _ in range(given.times)] for way, words in WAYS.items()}
    best = {way: min(timed, key=lambda each: each.seconds) for way, timed in runs.items()}
    title = f"simulated, not evidence: 307 scans x 4 backbones x {N_SLICES} slices, store of {given.size} pixels"
    table = Table("", "seconds", "of all runs", "of cores", "peak memory, GiB", "parts, seconds", title=title)
    for way, each in best.items():
        spread = ", ".join(f"{timed.seconds:.1f}" for timed in runs[way])
        parts = "; ".join(f"{part} {seconds:.1f}" for part, seconds in each.parts.items())
        table.add_row(way, f"{each.seconds:.1f}", spread, f"{each.cpu_seconds:.1f}", f"{each.gib:.2f}", parts)
    Console(width=140).print(table)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load} (1, 5, 15 minutes, this command's own included)")
    if given.json:
        result = {
            "size": given.size,
            "load": os.getloadavg(),
            "runs": {w: [asdict(t) for t in r] for w, r in runs.items()},
        }
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
