"""Upper bound on the damaged JPEG Lossless slices of benchmarks.fuzz that a check of a single image can detect.

python -m benchmarks.row_shifts --files 1000 --seed 1 --sample FOLDER

A damaged file that is read without an error usually has one shifted row. The score uses the true row and the true first
column of the shift, which no check knows. It predicts the row's end with one to five neighbours on either side, with
the weights that fit the neighbouring rows best; the score is the largest deviation, in units of the residual of that
fit. Below 3 even such a check would miss the shift. Without knowledge of the place, among 512 x 512 candidates in each
slice, a score of 6 is needed.
"""

import tempfile
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser
from benchmarks.damage import make_slice
from benchmarks.fuzz import read_hu, real_slices, write_jobs
from cnr_iemn.errors import ScanError

_FIT_RANGE, _MIN_FIT_ROWS, _MAX_NEIGHBOURS = 40, 12, 5  # rows
_MIN_NOISE = 0.05
LIMITS = (3, 4, 6, 10)


def shift_score(hu: NDArray[np.int16], row: int, column: int) -> float:
    """Return the deviation of a row from ``column`` to its end, in units of its noise. ``hu``: [rows, columns]."""
    means = hu[:, column:].mean(axis=1)
    largest = 0.0
    for n in range(1, _MAX_NEIGHBOURS + 1):
        rows = np.arange(n, len(means) - n)
        near = rows[(np.abs(rows - row) <= _FIT_RANGE) & (np.abs(rows - row) > n)]
        if row not in rows or len(near) < _MIN_FIT_ROWS:
            continue
        neighbours = np.stack([means[rows - k] + means[rows + k] for k in range(1, n + 1)], axis=1)
        predictors = neighbours[near - n]
        weights = np.linalg.lstsq(predictors, means[near], rcond=None)[0]
        noise = np.sqrt(((means[near] - predictors @ weights) ** 2).sum() / (len(near) - n))
        largest = max(largest, abs(means[row] - neighbours[row - n] @ weights) / max(noise, _MIN_NOISE))
    return float(largest)


def measure_scores(slices: list[tuple[bytes, NDArray[np.int16]]], name: str, files: int, seed: int) -> list[float]:
    """Return the score of each damaged file that is read as a wrong image; 0 if several rows differ."""
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        for job in write_jobs(Path(folder), name, slices, files, header=False, seed=seed):
            try:
                hu = read_hu(job.path)
            except ScanError:
                continue
            wrong = hu != job.hu
            rows = np.flatnonzero(wrong.any(axis=1))
            if len(rows):
                column = int(np.argmax(wrong[rows[0]]))
                scores.append(shift_score(hu, int(rows[0]), column) if len(rows) == 1 else 0.0)
    return scores


def main() -> None:
    """Print the number of undetected files, and how many of them score below each limit."""
    parser = make_parser(__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=Path)
    options = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(options.seed)
    sources = {"JPEG Lossless": [make_slice("JPEG Lossless", rng) for _ in range(4)]}
    if options.sample:
        sources["JPEG Lossless, real"] = real_slices(options.sample)
    table = Table("", "files", "undetected", *(f"score below {limit}" for limit in LIMITS))
    for name, slices in sources.items():
        scores = np.array(measure_scores(slices, name, options.files, options.seed))
        below = [f"{(scores < limit).sum()} ({100 * (scores < limit).sum() / options.files:.1f}%)" for limit in LIMITS]
        table.add_row(name, str(options.files), str(len(scores)), *below)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
