"""A pixel row that is shifted up to its end: what a flipped bit leaves in JPEG Lossless.

Each pixel is stored as the difference from the one to its left: one wrong difference shifts the rest of its row. Where
the number of bits stays the same the stream is a valid one of another image, and only the image can tell. What was
measured is in docs/decisions.md.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEGLosslessSV1

from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.ct.streams import DAMAGED
from cnr_iemn.errors import ScanError

Ends = NDArray[np.float32]
"""[slices, rows, 1 + blocks]: means of the rows' beginnings, then of blocks of their last columns."""

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
_TOGETHER = 8  # slices, which fit a core's cache; one by one takes twice as long


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
        n_blocks = max(_TAILS) // _BLOCK
        ends = np.empty((rows, 1 + n_blocks), np.float32)
        ends[:, :1] = cv2.reduce(stored[:, :_HEAD].astype(np.float32), 1, cv2.REDUCE_AVG)
        last = stored[:, columns - max(_TAILS) :].astype(np.float32)
        ends[:, 1:] = cv2.resize(last, (n_blocks, rows), interpolation=cv2.INTER_AREA)
        self._ends.append(ends)
        self._names.append(header.name)

    def verify(self) -> None:
        """Raise ScanError for the first slice with a shifted row."""
        for start in range(0, len(self._ends), _TOGETHER):
            found = min(_shifted_rows(np.stack(self._ends[start : start + _TOGETHER])), default=None)
            if found is not None:
                index, row, shift = found
                raise ScanError(
                    f"{self._names[start + index]}: the end of pixel row {row} lies {shift:+.0f} off the rows beside "
                    f"it: {DAMAGED}"
                )


def _shifted_rows(ends: Ends) -> Iterator[tuple[int, int, float]]:
    """Give slice, row and shift of rows that are shifted."""
    off, means = _off_neighbours(ends), ends[..., 1:]
    begins = np.abs(off[..., 0])
    for tail in _TAILS:
        blocks = tail // _BLOCK
        part = off[..., -blocks:]
        shift = _mean(part)
        large = np.abs(shift) > _MAX_SCORE * _MIN_NOISE
        if not large.any():
            continue
        alone = _one_row_only(_mean(means[..., -blocks:]), np.abs(shift), begins)
        left = np.nonzero(alone & large)
        noise = np.maximum(_around(shift**2)[left], part[left].var(axis=1) / (blocks - 1))
        score = np.abs(shift[left]) / np.sqrt(np.maximum(noise, _MIN_NOISE**2))
        for k in np.flatnonzero(score > _MAX_SCORE):
            index, row = int(left[0][k]), int(left[1][k])
            yield index, row, float(shift[index, row])


def _mean(blocks: Ends) -> Ends:
    """Return the mean along the rows, [slices, rows], as a product: numpy's own is slow on short axes."""
    n = blocks.shape[2]
    return blocks @ np.full(n, 1 / n, np.float32)


def _off_neighbours(values: Ends) -> Ends:
    """Return by how much each row lies off the cubic through two rows on either side; 0 in the first and last two."""
    off = np.zeros_like(values)
    n = values.shape[1] - 4
    for k, weight in enumerate(_INTERPOLATION):
        off[:, 2:-2] += weight * values[:, k : k + n]
    return off


def _around(squares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each row, [slices, rows], the mean of those _NEAR to _FAR away, on both sides."""
    total = np.pad(squares.cumsum(axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    n = squares.shape[1]
    row = np.arange(n)
    outer, inner = ((np.maximum(row - width + 1, 0), np.minimum(row + width, n)) for width in (_FAR + 1, _NEAR))
    both = (total[:, outer[1]] - total[:, outer[0]]) - (total[:, inner[1]] - total[:, inner[0]])
    mean: NDArray[np.float64] = both / (outer[1] - outer[0] - inner[1] + inner[0])
    return mean


def _one_row_only(
    level: NDArray[np.float32], shift: NDArray[np.float32], begins: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Tell where the rows on either side agree with each other and with the next ones, and the row's beginning too."""
    agree = np.zeros(level.shape, np.bool_)
    above2, above, below, below2 = level[:, :-4], level[:, 1:-3], level[:, 3:-1], level[:, 4:]
    limit = _SAME * shift[:, 2:-2]
    agree[:, 2:-2] = np.abs(above - below) < limit
    agree[:, 2:-2] &= np.abs(above + below - above2 - below2) / 2 < limit
    agree[:, 2:-2] &= begins[:, 2:-2] < limit
    return agree
