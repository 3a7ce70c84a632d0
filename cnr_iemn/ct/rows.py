"""A pixel row that is shifted up to its end: what a flipped bit leaves in JPEG Lossless.

Each pixel is stored as the difference from the one to its left: one wrong difference shifts the rest of its row. Where
the number of bits stays the same the stream is a valid one of another image, and only the image can tell. What was
measured is in docs/decisions.md.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEGLosslessSV1

from cnr_iemn.ct.compiled import compiled
from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.ct.streams import DAMAGED
from cnr_iemn.errors import ScanError

Ends = NDArray[np.float32]
"""[rows, 1 + blocks]: means of the rows' beginnings, then of blocks of their last columns."""

_HEAD, _TAILS = 64, (32, 64, 128)
"""Columns at a row's beginning and at its end."""
_BLOCK = 8
_N_BLOCKS = max(_TAILS) // _BLOCK
_MIN_ROWS, _MIN_COLUMNS = 48, 256
_NEAR, _FAR = 2, 20
"""Rows on either side that tell the noise; the nearest show the damage itself."""
_MIN_NOISE = 0.5
_SAME = 0.25
"""How much the rows beside it and its own beginning may share of a row's shift."""
_MAX_SCORE = 10.0


class RowCheck:
    """A scan's check for shifted rows: ``add`` each slice, then ``verify``.

    The end of a row must not lie off the rows above and below while its beginning does not. Each row is compared with
    what four neighbours say of it, averaged over its last columns. The score is that difference in units of its noise:
    the larger of its scatter over the rows around and along the row itself. What is wider than one row (edges, the
    table) is no such damage.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._ends: list[Ends] = []

    def add(self, stored: NDArray[np.integer], header: SliceHeader) -> None:
        """Take what counts of a slice's stored values with their sign, [rows, columns]; all slices are of one size.

        Slices in another transfer syntax than JPEG Lossless with predictor 1, and small ones, are passed over.
        """
        rows, columns = stored.shape
        if header.pixels.transfer_syntax != JPEGLosslessSV1 or rows < _MIN_ROWS or columns < _MIN_COLUMNS:
            return
        ends = np.empty((rows, 1 + _N_BLOCKS), np.float32)
        _average_ends(stored, ends)
        self._ends.append(ends)
        self._names.append(header.name)

    def verify(self) -> None:
        """Raise ScanError for the first slice with a shifted row."""
        for name, ends in zip(self._names, self._ends, strict=True):
            row, shift = _first_shifted(ends, _MAX_SCORE)
            if row < len(ends):
                raise ScanError(
                    f"{name}: the end of pixel row {row} lies {shift:+.0f} off the rows beside it: {DAMAGED}"
                )


@compiled
def _average_ends(stored: NDArray[np.integer], ends: Ends) -> None:
    rows, columns = stored.shape
    for row in range(rows):
        total = 0
        for column in range(_HEAD):
            total += int(stored[row, column])
        ends[row, 0] = total / _HEAD
        for k in range(_N_BLOCKS):
            start, total = columns - (_N_BLOCKS - k) * _BLOCK, 0
            for column in range(start, start + _BLOCK):
                total += int(stored[row, column])
            ends[row, 1 + k] = total / _BLOCK


@compiled
def _first_shifted(ends: Ends, max_score: float) -> tuple[int, float]:
    """Return the first row that is shifted, and its shift; the number of rows where none is."""
    n = len(ends)
    off = np.zeros_like(ends)  # by how much each row lies off the cubic through two rows on either side
    for row in range(2, n - 2):
        for k in range(1 + _N_BLOCKS):
            near, far = ends[row - 1, k] + ends[row + 1, k], ends[row - 2, k] + ends[row + 2, k]
            off[row, k] = ends[row, k] - (4 * near - far) / 6
    found, found_shift = n, 0.0
    level, shift = np.empty(n), np.empty(n)
    for tail in _TAILS:
        first = 1 + _N_BLOCKS - tail // _BLOCK
        for row in range(n):
            level[row] = shift[row] = 0
            for k in range(first, 1 + _N_BLOCKS):
                level[row] += ends[row, k] * _BLOCK / tail
                shift[row] += off[row, k] * _BLOCK / tail
        for row in range(2, min(found, n - 2)):
            size = abs(shift[row])
            if size <= max_score * _MIN_NOISE:
                continue
            above, below = level[row - 1], level[row + 1]
            beside = abs(above + below - level[row - 2] - level[row + 2]) / 2
            if max(abs(above - below), beside, abs(off[row, 0])) >= _SAME * size:
                continue  # it is not this row alone, or its beginning as well
            around = along = 0.0
            n_around = 0
            for k in range(max(row - _FAR, 0), min(row + _FAR + 1, n)):
                if abs(k - row) > _NEAR:
                    around += shift[k] ** 2
                    n_around += 1
            for k in range(first, 1 + _N_BLOCKS):
                along += (off[row, k] - shift[row]) ** 2 * _BLOCK / tail
            noise = max(around / n_around, along / (tail / _BLOCK - 1), _MIN_NOISE**2)
            if size > max_score * np.sqrt(noise):
                found, found_shift = row, shift[row]
                break
    return found, found_shift
