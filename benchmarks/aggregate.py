"""Time and memory of aggregate.py on a simulated study of the paper's size.

python -m benchmarks.aggregate --json aggregate.json

Writes a study as train.py does: predictions of four backbones for 307 scans of 150 slices with the paper's split, and a
slice store with the pixels of one simulated scan under 307 names. Then runs the command with two configurations: only
the paper's tables with intervals, and all defaults. Reports the wall-clock seconds (start-up included), the peak memory
of the process, and the seconds of each step as the command prints them. The predictions are meaningless.
"""

import hashlib
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

from benchmarks.common import describe_load, make_parser, write_json
from cnr_iemn.constants import BACKBONES, SPGC_CLASSES
from cnr_iemn.data.predictions.slice_predictions import write_predictions
from cnr_iemn.data.slice_store import PixelSettings, StoredScan
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.utils.atomic_io import json_text, sha256_of_file
from tests.builders import NO_SCANS, FakeScan, make_predictions

COUNTS = {"Normal": (76, 24, 30), "COVID-19": (171, 55, 55), "CAP": (60, 19, 25)}
"""Scans of each class, for validation, slice-labelled."""
N_SLICES = 150
MISLEADING_SHARE = 0.2
"""Share of scans whose slices look like a random class, so that the problem is not trivial."""
CONFIGURATIONS = {
    "the paper's tables with intervals": ("permutations=0", "methods=false", "refits=0"),
    "all defaults": (),
}
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measurement:
    """One run of the command.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: CPU time over all cores; other work on the machine changes it less.
        gib: Peak memory.
        steps: Seconds of each step as the command prints them, and of all else.
    """

    seconds: float
    cpu_seconds: float
    gib: float
    steps: dict[str, float]


def paper_scans() -> dict[str, FakeScan]:
    """Return 307 scans with the paper's classes, split and slice labels."""
    return {
        f"{label}-{k:03d}": FakeScan(label, VALIDATION if k < n_validation else TRAINING, N_SLICES, k % n < n_labelled)
        for label, (n, n_validation, n_labelled) in COUNTS.items()
        for k in range(n)
    }


def write_study(folder: Path, size: int) -> None:
    """Write runs/paper-size with a finished run of each backbone, and their slice store."""
    scans = paper_scans()
    rng = np.random.default_rng(0)
    appearances = {
        name: FakeScan(**{**vars(scan), "label": str(rng.choice(SPGC_CLASSES))})
        if rng.random() < MISLEADING_SHARE
        else scan
        for name, scan in scans.items()
    }
    options = vars(ReadOptions())
    ingest = {"size": size, "window": [-1000.0, 400.0], "crop": "none", **options}
    store = folder / "cache" / "simulated" / PixelSettings(size=size).fingerprint()
    write_store(store, scans, size)
    for model, info in BACKBONES.items():
        run = RunFolder.of(folder / "runs", "paper-size", model, "seed0")
        network = {"image_size": info.image_size, "position": "both", "library": "torchvision", "weights": "none"}
        data = {"split": {"seed": 0, "file": None}, "exclude": [], "shuffle_training_labels": False, "folds": 5}
        configuration = {"model": network, "ingest": ingest, "lungs": "pleura", "data": data}
        cohort = {"name": "simulated", "root": "simulated", "n_scans": len(scans)}
        provenance = {"hardware": "simulated", "versions": {}, "scans": NO_SCANS}
        run.start({"configuration": configuration, "cohort": cohort, "store": str(store), **provenance}, "")
        predictions = make_predictions(model, appearances, skill=0.5, checkpoint="last", store=store.name)
        predictions.table["label"] = (
            predictions.table["scan_id"].map({name: scan.label for name, scan in scans.items()}).astype(str)
        )
        predictions.table["used_for_selection"] = False
        write_predictions(run.predictions, predictions)
        run.finish(status="finished", predictions_sha256=sha256_of_file(run.predictions))


def write_store(root: Path, scans: dict[str, FakeScan], size: int) -> None:
    """Write grey slices that differ in one row, and one lung mask to which all scans link; all have the same length."""
    rng = np.random.default_rng(0)
    (n_slices,) = {scan.n_slices for scan in scans.values()}
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    mask = (np.hypot(rows, (np.abs(columns) - 0.22) * 1.8) < 0.3).astype(np.uint8)  # a fifth to a third of the image
    grey = rng.integers(0, 256, (n_slices, size, size), dtype=np.uint8)
    lungs, first = np.packbits(np.broadcast_to(mask, grey.shape), axis=-1), next(iter(scans))
    lungs_sha256 = hashlib.sha256(lungs.data).hexdigest()
    for scan_id in scans:
        scan = root / scan_id
        scan.mkdir(parents=True)
        grey[0, 0, : len(scan_id.encode())] = list(scan_id.encode())  # no two scans have the same pixels
        np.save(scan / "grey.npy", grey)
        if scan_id == first:
            np.save(scan / "lungs.npy", lungs)
        else:
            (scan / "lungs.npy").hardlink_to(root / first / "lungs.npy")
        z_mm = tuple(float(-2 * k) for k in range(n_slices))
        litres = float(rng.uniform(2.5, 6.0))
        stored = StoredScan(
            scan_id=scan_id,
            n_slices=n_slices,
            size=size,
            spacing_mm=(2.0, 0.7, 0.7),
            z_mm=z_mm,
            lung_litres=litres,
            findings=(),
            phantom=False,
            grey_sha256=hashlib.sha256(grey.data).hexdigest(),
            lungs_sha256=lungs_sha256,
        )
        (scan / "scan.json").write_text(json_text(asdict(stored)), encoding="utf-8")


def run_command(folder: Path, overrides: tuple[str, ...]) -> Measurement:
    """Run aggregate.py.

    Raises:
        RuntimeError: The command fails; the message has its output.
    """
    command = [
        sys.executable,
        str(ROOT / "aggregate.py"),
        f"runs={folder / 'runs'}",
        "study=paper-size",
        "verbose=true",
        *overrides,
    ]
    with (folder / "output.txt").open("w+") as output:
        start_time = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # the resources of this child only
        seconds = time.perf_counter() - start_time
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{text}")
    (line,) = (line for line in text.splitlines() if re.fullmatch(r"(.+ [0-9.]+ s(; )?)+", line))
    steps = {step.rsplit(" ", 2)[0]: float(step.rsplit(" ", 2)[1]) for step in line.split("; ")}
    steps["all else"] = seconds - sum(steps.values())
    return Measurement(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, steps)


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=int, default=32, help="pixels of the store's slices; 336 is the real size")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each configuration; the fastest is reported")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, options.size)
        runs = {
            name: [run_command(folder, overrides) for _ in range(options.repeats)]
            for name, overrides in CONFIGURATIONS.items()
        }
    title = f"simulated, not evidence: 307 scans x 4 backbones x {N_SLICES} slices, store of {options.size} pixels"
    table = Table("", "seconds", "all runs", "CPU seconds", "peak memory, GiB", "steps, seconds", title=title)
    for name, measurements in runs.items():
        fastest = min(measurements, key=lambda run: run.seconds)
        seconds = ", ".join(f"{run.seconds:.1f}" for run in measurements)
        steps = "; ".join(f"{step} {duration:.1f}" for step, duration in fastest.steps.items())
        row = f"{fastest.seconds:.1f}", seconds, f"{fastest.cpu_seconds:.1f}", f"{fastest.gib:.2f}", steps
        table.add_row(name, *row)
    Console(width=140).print(table)
    print(describe_load(os.cpu_count() or 1))
    result = {name: [asdict(run) for run in measurements] for name, measurements in runs.items()}
    write_json(options.json, {"size": options.size, "load": os.getloadavg(), "runs": result})


if __name__ == "__main__":
    main()
