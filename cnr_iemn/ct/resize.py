"""Slices and masks at the size of the slice store: means over areas, which lose no thin structure."""

import math
from functools import lru_cache
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

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
    turned = _turned_means(image, size, size)
    means = cv2.transpose(cv2.convertScaleAbs(turned) if image.dtype == np.uint8 else turned)  # the former rounds
    return cast(NDArray[Pixel], means)


def resize_mask(image: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Return a mask of 0 and 1 as ``resize_square`` does; a pixel that is half covered belongs to it.

    Most of a slice is outside: only blocks of rows and columns that keep their size in whole pixels and hold some of
    the mask are resized.
    """
    side = max(image.shape)
    if image.shape[0] != image.shape[1] or size >= side:
        return resize_square(image * np.uint8(255), size) >= 128
    step = math.gcd(side, size)
    block, small = side // step, size // step  # so many pixels become so many
    left, top, width, height = cv2.boundingRect(image)
    if width == 0:
        return np.zeros((size, size), bool)
    spans = [(start // block, -(-(start + length) // block)) for start, length in ((top, height), (left, width))]
    (upper, lower), (first, last) = spans
    part = image[upper * block : lower * block, first * block : last * block]
    resized = np.zeros((size, size), bool)
    turned = _turned_means(part, (lower - upper) * small, (last - first) * small) > _HALF
    resized[upper * small : lower * small, first * small : last * small] = turned.T
    return resized


_HALF = np.float32(0.5 - 1e-5)  # of a pixel, less what sums of shares lose to rounding


def _turned_means(image: NDArray[Pixel], rows: int, columns: int) -> NDArray[np.float32]:
    """Return means over areas, transposed, float32 [columns, rows].

    They are those of OpenCV's INTER_AREA in a quarter of its time.
    """
    down = _shares(image.shape[0], rows) @ image.astype(np.float32)
    turned: NDArray[np.float32] = _shares(image.shape[1], columns) @ cv2.transpose(down)
    return turned


@lru_cache(maxsize=64)
def _shares(pixels: int, fewer: int) -> sparse.csr_array:
    """Return which share of each of ``fewer`` pixels along a line comes from each of ``pixels``."""
    first, start = np.arange(fewer)[:, None] * pixels, np.arange(pixels) * fewer  # in units in which all ends are whole
    overlap = np.minimum(first + pixels, start + fewer) - np.maximum(first, start)
    return sparse.csr_array((overlap.clip(0) / pixels).astype(np.float32))
