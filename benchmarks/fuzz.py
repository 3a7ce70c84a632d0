"""Damaged files: how many wrong images come through undetected, and does anything hang or bring the parent down?

python -m benchmarks.fuzz --files 2000 --headers 2000 --seed 0 [--sample FOLDER]

Every codec gets its share of the files, damaged in their pixel data in every way in turn; headers are damaged anywhere
before it. A file counts as undetected where it is read without an error and its HU differ; a changed digit of the
rescaling is found only among the other slices of a scan, so it counts here. --sample: a folder of real JPEG Lossless
slices that carry the range tags; twenty of them are damaged too. The same seed damages the same bytes.
"""

import argparse
import json
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

from benchmarks.damage import CODECS, KINDS, damage, make_slice, pixel_start
from cnr_iemn.ct.codecs import check_format, decode_pixels, frames_of
from cnr_iemn.ct.headers import read_headers
from cnr_iemn.ct.limited import run_limited
from cnr_iemn.ct.rescale import check_rescale, to_hu
from cnr_iemn.ct.rows import RowCheck
from cnr_iemn.errors import ScanError

SECONDS = 20.0
MEMORY = 2**31
TARGET = 0.03
PLAIN_HU = 64
"""An error of so many HU is plainly visible."""

_Slice = tuple[bytes, NDArray[np.int16]]


@dataclass(frozen=True)
class Job:
    """One damaged file, how it was damaged, and the HU that it held before."""

    path: Path
    kind: str
    hu: NDArray[np.int16]


def read_one(job: Job) -> str:
    """Read the file as the reader does; return right, wrong, plainly wrong or refused."""
    try:
        found = hu_of(job.path)
    except ScanError:
        return "refused"
    if found.shape != job.hu.shape:
        return "plainly wrong"
    largest = int(np.abs(found.astype(np.int32) - job.hu).max())
    return "right" if largest == 0 else "wrong" if largest < PLAIN_HU else "plainly wrong"


def hu_of(path: Path) -> NDArray[np.int16]:
    """Return the HU of a slice as the reader takes them from its file alone. Raises ScanError."""
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
    """Write so many damaged files, of each slice and in each way in turn."""
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
    """Read all files in limited processes; return the verdicts by kind of damage."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    workers = os.cpu_count() or 1
    for index, answer in run_limited(read_one, jobs, workers=workers, memory_bytes=MEMORY, seconds=SECONDS):
        verdict = answer
        if isinstance(answer, ScanError):
            verdict = "hung" if "took more than" in str(answer) else "process lost"
            print(f"{jobs[index].path.name}, {jobs[index].kind}: {answer}", flush=True)
        counts[jobs[index].kind][str(verdict)] += 1
    return counts


def real_slices(folder: Path) -> list[_Slice]:
    """Return the bytes and HU of twenty files spread over a folder."""
    paths = sorted(folder.rglob("*.dcm"))
    return [(path.read_bytes(), hu_of(path)) for path in paths[:: max(len(paths) // 20, 1)][:20]]


def undetected(counts: Counter[str]) -> int:
    """Return how many wrong images came through."""
    return counts["wrong"] + counts["plainly wrong"]


def report(results: dict[str, dict[str, Counter[str]]], console: Console) -> None:
    """Print the verdicts, and for each kind of damage how many of the files came through as a wrong image."""
    verdicts = Table("damaged", "files", "refused", "right", "undetected", f"by {PLAIN_HU} HU", "process lost", "hung")
    by_kind = Table("undetected", *KINDS)
    for name, kinds in results.items():
        total = sum(kinds.values(), Counter())
        wrong = f"{undetected(total)} ({100 * undetected(total) / total.total():.1f}%)"
        values = (total.total(), total["refused"], total["right"], wrong, total["plainly wrong"])
        verdicts.add_row(name, *map(str, values), str(total["process lost"]), str(total["hung"]))
        by_kind.add_row(name, *(f"{undetected(kinds[kind])} of {kinds[kind].total()}" for kind in KINDS))
    console.print(verdicts, by_kind)


def main() -> None:
    """Print two tables by codec; exit with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--headers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(words.seed)
    sources = {codec: [make_slice(codec, rng) for _ in range(4)] for codec in CODECS}
    if words.sample:
        sources["JPEG Lossless, real"] = real_slices(words.sample)
    results = {}
    for header, files in ((False, words.files), (True, words.headers)):
        share = files // len(sources)
        for codec, slices in sources.items() if share else ():
            with tempfile.TemporaryDirectory() as temporary:
                jobs = write_jobs(Path(temporary), codec, slices, share, header=header, seed=words.seed)
                results[f"{codec}, {'header' if header else 'pixels'}"] = count(jobs)
    report(results, Console(width=140))
    if words.json:
        words.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    missed = []
    for name, kinds in results.items():
        total = sum(kinds.values(), Counter())
        ours = name.startswith("JPEG Lossless") and name.endswith("pixels")
        if total["hung"] or (ours and undetected(total) > TARGET * total.total()):
            missed.append(name)
    if missed:
        raise SystemExit(f"target missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
