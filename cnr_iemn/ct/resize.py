"""Slices and masks at the size of the slice store: means over areas, which lose no thin structure."""

from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled

Pixel = TypeVar("Pixel", np.uint8, np.float32)


def resize_square(image: NDArray[Pixel], size: int, *, fill: float = 0) -> NDArray[Pixel]:
    """Return the image, uint8 or float32 [rows, columns], padded to a centred square and resized to ``size`` a side.

    ``fill``: the value beyond its edges.

    Shrinking averages over areas; enlarging interpolates linearly.
    """
    rows, columns = image.shape
    side = max(rows, columns)
    if rows != columns:
        top, left = (side - rows) // 2, (side - columns) // 2
        edges = ((top, side - rows - top), (left, side - columns - left))
        image = np.pad(image, edges, constant_values=fill)
    if size >= side:
        enlarged: NDArray[Pixel] = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        return enlarged
    means = np.empty((size, size), image.dtype)
    _area_means(image, *_shares(side, size), *_shares(side, size), means, image.dtype == np.uint8)
    return means


def resize_mask(image: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Return a mask of 0 and 1 as ``resize_square`` does; a pixel that is half covered belongs to it."""
    side = max(image.shape)
    if image.shape[0] != image.shape[1] or size >= side:
        return resize_square(image * np.uint8(255), size) >= 128
    resized = np.zeros((size, size), bool)
    left, top, width, height = cv2.boundingRect(image)  # most of a slice is outside
    rows, columns = (
        slice(start * size // side, -(-(start + length) * size // side))
        for start, length in ((top, height), (left, width))
    )
    first, share = _shares(side, size)
    inside = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    _area_means(image, first[rows], share[:, rows], first[columns], share[:, columns], inside, False)
    resized[rows, columns] = inside > _HALF
    return resized


_HALF = np.float32(0.5 - 1e-5)  # of a pixel, less what sums of shares lose to rounding
_AT_ONCE = 3  # shares of a pixel; where the size is less than halved it has no more
_Shares = tuple[NDArray[np.int64], NDArray[np.float32]]
"""For each of fewer pixels along a line: the first of the pixels that it covers, [fewer], and the shares of that one

and the next ones in it, [n, fewer]; 0 where it covers fewer than n.
"""


@lru_cache(maxsize=64)
def _shares(pixels: int, fewer: int) -> _Shares:
    """Return which share of each of ``fewer`` pixels along a line comes from each of ``pixels``."""
    start = np.arange(fewer) * pixels  # in units in which all ends are whole
    first = start // fewer
    n = max(_AT_ONCE, int(((start + pixels - 1) // fewer - first).max()) + 1)
    covered = (first + np.arange(n)[:, None]) * fewer
    overlap = np.minimum(start + pixels, covered + fewer) - np.maximum(start, covered)
    return first, (overlap.clip(0) / pixels).astype(np.float32)


@compiled
def _area_means(
    image: NDArray[np.uint8 | np.float32],
    first_rows: NDArray[np.int64],
    row_shares: NDArray[np.float32],
    first_columns: NDArray[np.int64],
    column_shares: NDArray[np.float32],
    means: NDArray[np.float32] | NDArray[np.uint8],
    rounded: bool,
) -> None:
    """Write means over areas, [fewer rows, fewer columns]: those of OpenCV's INTER_AREA in half its time."""
    n_columns = image.shape[1]
    line = np.zeros(n_columns + column_shares.shape[0], np.float32)
    for i in range(means.shape[0]):
        line[:] = 0
        for k in range(row_shares.shape[0]):
            share = row_shares[k, i]
            if share > 0:
                pixels = image[first_rows[i] + k]
                for column in range(n_columns):
                    line[column] += share * np.float32(pixels[column])
        for j in range(means.shape[1]):
            at = first_columns[j]
            mean = column_shares[0, j] * line[at]
            mean += column_shares[1, j] * line[at + 1]
            mean += column_shares[2, j] * line[at + 2]
            for k in range(_AT_ONCE, column_shares.shape[0]):
                mean += column_shares[k, j] * line[at + k]
            means[i, j] = np.rint(mean) if rounded else mean
