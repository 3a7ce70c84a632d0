"""Slices and masks at the size of the slice store: means over areas, which lose no thin structure."""

import math
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

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
    interpolation = cv2.INTER_LINEAR if size >= side else cv2.INTER_AREA
    resized: NDArray[Pixel] = cv2.resize(image, (size, size), interpolation=interpolation)
    return resized


def resize_mask(image: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Return a mask of 0 and 1 as ``resize_square`` does; a pixel that is half covered belongs to it."""
    side = max(image.shape)
    if image.shape[0] != image.shape[1] or size >= side:
        return resize_square(image * np.uint8(255), size) >= 128
    resized = np.zeros((size, size), bool)
    step = math.gcd(side, size)
    block, small_block = side // step, size // step  # so many pixels become so many
    left, top, width, height = cv2.boundingRect(image)  # most of a slice is outside
    rows, columns = (
        range(start // block, -(-(start + length) // block)) for start, length in ((top, height), (left, width))
    )
    if rows and columns:
        region = image[rows.start * block : rows.stop * block, columns.start * block : columns.stop * block]
        shape = (len(columns) * small_block, len(rows) * small_block)
        resized[
            rows.start * small_block : rows.stop * small_block, columns.start * small_block : columns.stop * small_block
        ] = cv2.resize(region * np.uint8(255), shape, interpolation=cv2.INTER_AREA) >= 128
    return resized
