"""A pixel row that is shifted up to its end: what a flipped bit leaves in JPEG Lossless.

Each pixel is stored as the difference from the one to its left: one wrong difference shifts the rest of its row. Where
the number of bits stays the same the stream is a valid one of another image, and only the image can tell. What was
measured is in docs/decisions.md.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_HEAD, _TAILS = 64, (32, 64, 128)
"""Columns at a row's beginning and at its end."""
_BLOCK = 8
_MIN_ROWS, _MIN_COLUMNS = 48, 256
_NEAR, _FAR = 3, 20
"""Rows on either side that tell the noise; the two nearest show the damage itself."""
_MIN_NOISE = 0.5
_SAME = 0.25
"""How much the rows beside it and its own beginning may share of a row's shift."""
_MAX_SCORE = 10.0
_INTERPOLATION = (1 / 6, -4 / 6, 1, -4 / 6, 1 / 6)


def shifted_row(stored: NDArray[np.integer]) -> str | None:
    """Find a row whose end lies off the rows above and below, and whose beginning does not.

    ``stored``: values of a slice with their sign, [rows, columns]. Each row is compared with what four neighbours say
    of it, averaged over its last columns. The score is that difference in units of its noise: the larger of its scatter
    over the rows around and along the row itself. What is wider than one row (edges, the table) is no such damage.
    """
    rows, columns = stored.shape
    if rows < _MIN_ROWS or columns < _MIN_COLUMNS:
        return None
    ends = stored[:, columns - max(_TAILS) :].astype(np.float32)
    means = cv2.resize(ends, (max(_TAILS) // _BLOCK, rows), interpolation=cv2.INTER_AREA)
    off = _off_neighbours(means)
    begins = np.abs(_off_neighbours(stored[:, :_HEAD].mean(axis=1, dtype=np.float32)))
    for tail in _TAILS:
        blocks = tail // _BLOCK
        part = off[:, -blocks:]
        shift = part.mean(axis=1)
        if np.abs(shift).max() <= _MAX_SCORE * _MIN_NOISE:
            continue
        alone = _one_row_only(means[:, -blocks:].mean(axis=1), np.abs(shift), begins)
        rows_left = np.flatnonzero(alone & (np.abs(shift) > _MAX_SCORE * _MIN_NOISE))
        if not len(rows_left):
            continue
        noise = np.maximum(_around(shift**2)[rows_left], part[rows_left].var(axis=1) / (blocks - 1))
        score = np.abs(shift[rows_left]) / np.sqrt(np.maximum(noise, _MIN_NOISE**2))
        if score.max() > _MAX_SCORE:
            row = int(rows_left[score.argmax()])
            return f"the end of pixel row {row} lies {shift[row]:+.0f} off the rows beside it"
    return None


def _off_neighbours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each row lies off the cubic through two rows on either side; 0 in the first and last two."""
    off = np.zeros_like(values)
    n = len(values) - 4
    for k, weight in enumerate(_INTERPOLATION):
        off[2:-2] += weight * values[k : k + n]
    return off


def _around(squares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each row the mean of those _NEAR to _FAR away, on both sides."""
    total = np.concatenate([[0], squares.cumsum(dtype=np.float64)])
    row, n = np.arange(len(squares)), len(squares)
    outer, inner = ((np.maximum(row - width + 1, 0), np.minimum(row + width, n)) for width in (_FAR + 1, _NEAR))
    both = (total[outer[1]] - total[outer[0]]) - (total[inner[1]] - total[inner[0]])
    mean: NDArray[np.float64] = both / (outer[1] - outer[0] - inner[1] + inner[0])
    return mean


def _one_row_only(
    level: NDArray[np.float32], shift: NDArray[np.float32], begins: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Tell where the rows on either side agree with each other and with the next ones, and the row's beginning too."""
    agree = np.zeros(len(level), np.bool_)
    above2, above, below, below2 = level[:-4], level[1:-3], level[3:-1], level[4:]
    limit = _SAME * shift[2:-2]
    agree[2:-2] = (
        (np.abs(above - below) < limit) & (np.abs(above + below - above2 - below2) / 2 < limit) & (begins[2:-2] < limit)
    )
    return agree
