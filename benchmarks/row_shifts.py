"""How many damaged JPEG Lossless slices could any check of one file's image find? A bound, for benchmarks.fuzz.

python -m benchmarks.row_shifts --files 1000 --seed 1 --sample FOLDER

Of the files that come through damaged, the reader is told what no check knows: which row is shifted, and from which
column on. The row's end is compared with what one to five rows on either side say of it, with the weights that fit the
rows around best; the score is the largest of the differences, each in units of what such a fit leaves of the rows
around. Below 3 it would not be seen even so. Without being told, of 512 x 512 places in each slice, 6 are needed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.damage import make_slice
from benchmarks.fuzz import hu_of, real_slices, write_jobs
from cnr_iemn.errors import ScanError

_AROUND, _FEWEST, _MOST_NEIGHBOURS = 40, 12, 5
_LEAST_NOISE = 0.05
LIMITS = (3, 4, 6, 10)


def score(found: NDArray[np.int16], row: int, column: int) -> float:
    """Return by how much a row stands out from ``column`` on, in units of its noise. ``found``: HU [rows, columns]."""
    ends = found[:, column:].mean(axis=1)
    best = 0.0
    for n in range(1, _MOST_NEIGHBOURS + 1):
        rows = np.arange(n, len(ends) - n)
        near = rows[(np.abs(rows - row) <= _AROUND) & (np.abs(rows - row) > n)]
        if row not in rows or len(near) < _FEWEST:
            continue
        neighbours = np.stack([ends[rows - k] + ends[rows + k] for k in range(1, n + 1)], axis=1)
        of_near = neighbours[near - n]
        weights = np.linalg.lstsq(of_near, ends[near], rcond=None)[0]
        noise = np.sqrt(((ends[near] - of_near @ weights) ** 2).sum() / (len(near) - n))
        best = max(best, abs(ends[row] - neighbours[row - n] @ weights) / max(noise, _LEAST_NOISE))
    return float(best)


def scores_of(slices: list[tuple[bytes, NDArray[np.int16]]], name: str, files: int, seed: int) -> list[float]:
    """Return the score of each damaged file that is read without an error as another image, 0 for several rows."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for job in write_jobs(Path(folder), name, slices, files, header=False, seed=seed):
            try:
                hu = hu_of(job.path)
            except ScanError:
                continue
            other = hu != job.hu
            rows = np.flatnonzero(other.any(axis=1))
            if len(rows):
                alone = len(rows) == 1
                found.append(score(hu, int(rows[0]), int(np.argmax(other[rows[0]]))) if alone else 0.0)
    return found


def main() -> None:
    """Print how many come through, and how many of these score less than the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=Path)
    words = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(words.seed)
    sources = {"JPEG Lossless": [make_slice("JPEG Lossless", rng) for _ in range(4)]}
    if words.sample:
        sources["JPEG Lossless, real"] = real_slices(words.sample)
    table = Table("", "files", "undetected", *(f"score below {limit}" for limit in LIMITS))
    for name, slices in sources.items():
        scores = np.array(scores_of(slices, name, words.files, words.seed))
        below = [f"{(scores < limit).sum()} ({100 * (scores < limit).sum() / words.files:.1f}%)" for limit in LIMITS]
        table.add_row(name, str(words.files), str(len(scores)), *below)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
