"""Fuzzing of the reader: damaged files that are read as a wrong image, hang, or crash the parent process.

python -m benchmarks.fuzz --files 2000 --headers 2000 --seed 0 [--sample FOLDER]

Each codec gets its share of the files. Their pixel data are damaged in every way in turn; headers are damaged at a
random position. A file counts as undetected if it is read without an error and its HU differ. A changed digit of the
rescaling is detected only by comparison with other slices, so it counts here. --sample is a folder of real JPEG
Lossless slices with the tags of their range of values; twenty of them are damaged, too. The same seed damages the same
bytes.
"""

import os
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, write_json
from benchmarks.damage import CODECS, KINDS, damage, make_slice, pixel_start
from cnr_iemn.ct.io.hounsfield import RowCheck, check_rescale, to_hu
from cnr_iemn.ct.io.pixel_data import check_format, decode_pixels, frames_of
from cnr_iemn.ct.io.slice_header import read_headers
from cnr_iemn.errors import ScanError
from cnr_iemn.utils.sandbox import run_limited

SECONDS = 20.0
MEMORY = 2**31
TARGET = 0.03
VISIBLE_HU = 64
"""An error of this size is visible."""

_Slice = tuple[bytes, NDArray[np.int16]]


@dataclass(frozen=True)
class Job:
    """A damaged file, its kind of damage, and its HU before the damage."""

    path: Path
    kind: str
    hu: NDArray[np.int16]


def classify(job: Job) -> str:
    """Read the file as the reader does. Returns "right", "wrong", "plainly wrong" or "refused"."""
    try:
        hu = read_hu(job.path)
    except ScanError:
        return "refused"
    if hu.shape != job.hu.shape:
        return "plainly wrong"
    largest = int(np.abs(hu.astype(np.int32) - job.hu).max())
    return "right" if largest == 0 else "wrong" if largest < VISIBLE_HU else "plainly wrong"


def read_hu(path: Path) -> NDArray[np.int16]:
    """Return the HU of a slice as the reader takes them from this file only. Raises ScanError."""
    (header,) = read_headers(path, path.name)
    check_format(header.pixels, header.name)
    check_rescale(header)
    (frame,) = frames_of(path.read_bytes(), header.pixels, header.name)
    out = np.empty((header.pixels.rows or 0, header.pixels.columns or 0), np.int16)
    stored = decode_pixels(frame, header.pixels, header.name)
    rows = RowCheck()
    rows.add(stored, header)
    rows.verify()
    to_hu(stored, header, out)
    return out


def write_jobs(folder: Path, name: str, slices: list[_Slice], files: int, *, header: bool, seed: int) -> list[Job]:
    """Write ``files`` damaged files, from each slice and with each kind of damage in turn."""
    jobs = []
    for k in range(files):
        content, hu = slices[k // len(KINDS) % len(slices)]
        kind = list(KINDS)[k % len(KINDS)]
        rng = np.random.default_rng([seed, header, *name.encode(), k])
        start = pixel_start(content)
        path = folder / f"{name}-{'h' if header else 'p'}{k}.dcm"
        path.write_bytes(damage(content, kind, *((132, start) if header else (start, len(content))), rng))
        jobs.append(Job(path, kind, hu))
    return jobs


def count(jobs: list[Job]) -> dict[str, Counter[str]]:
    """Read all files in limited processes and count the verdicts by kind of damage."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    workers = os.cpu_count() or 1
    for index, outcome in run_limited(classify, jobs, workers=workers, memory_bytes=MEMORY, seconds=SECONDS):
        verdict = outcome
        if isinstance(outcome, ScanError):
            verdict = "hung" if "took more than" in str(outcome) else "process lost"
            print(f"{jobs[index].path.name}, {jobs[index].kind}: {outcome}", flush=True)
        counts[jobs[index].kind][str(verdict)] += 1
    return counts


def real_slices(folder: Path) -> list[_Slice]:
    """Return the bytes and HU of twenty files spread over a folder."""
    paths = sorted(folder.rglob("*.dcm"))
    return [(path.read_bytes(), read_hu(path)) for path in paths[:: max(len(paths) // 20, 1)][:20]]


def undetected(counts: Counter[str]) -> int:
    """Return the number of wrong images that were read without an error."""
    return counts["wrong"] + counts["plainly wrong"]


def print_tables(results: dict[str, dict[str, Counter[str]]], console: Console) -> None:
    """Print the verdicts, and the number of undetected wrong images by kind of damage."""
    verdicts = Table(
        "damage in", "files", "refused", "right", "undetected", f"by {VISIBLE_HU} HU", "process lost", "hung"
    )
    by_kind = Table("undetected", *KINDS)
    for name, kinds in results.items():
        total = sum(kinds.values(), Counter())
        wrong = f"{undetected(total)} ({100 * undetected(total) / total.total():.1f}%)"
        values = (total.total(), total["refused"], total["right"], wrong, total["plainly wrong"])
        verdicts.add_row(name, *map(str, values), str(total["process lost"]), str(total["hung"]))
        by_kind.add_row(name, *(f"{undetected(kinds[kind])} of {kinds[kind].total()}" for kind in KINDS))
    console.print(verdicts, by_kind)


def main() -> None:
    """Print two tables by codec; exit with 1 if a target is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--headers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(options.seed)
    sources = {codec: [make_slice(codec, rng) for _ in range(4)] for codec in CODECS}
    if options.sample:
        sources["JPEG Lossless, real"] = real_slices(options.sample)
    results = {}
    for header, files in ((False, options.files), (True, options.headers)):
        share = files // len(sources)
        for codec, slices in sources.items() if share else ():
            with tempfile.TemporaryDirectory() as temporary:
                jobs = write_jobs(Path(temporary), codec, slices, share, header=header, seed=options.seed)
                results[f"{codec}, {'header' if header else 'pixels'}"] = count(jobs)
    print_tables(results, Console(width=140))
    write_json(options.json, results)
    failures = []
    for name, kinds in results.items():
        total = sum(kinds.values(), Counter())
        has_target = name.startswith("JPEG Lossless") and name.endswith("pixels")
        if total["hung"] or (has_target and undetected(total) > TARGET * total.total()):
            failures.append(name)
    if failures:
        raise SystemExit(f"target missed: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
