"""Slices of the store as small pictures with the outline of their lung mask."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

OUTLINE = (64, 200, 255)
"""Blue, green, red of the mask's outline: orange, which no grey image holds."""


def slice_picture(grey: NDArray[np.uint8], mask: NDArray[np.uint8], *, side: int, quality: int = 85) -> str:
    """Return a JPEG of a slice with the mask's outline, as a data URI.

    ``grey``: uint8 [rows, columns]. ``mask``: 0 or 1, of that shape. ``side``: of the picture, pixels. ``quality``: of
    the JPEG, 0 to 100.
    """
    return data_uri(outlined(grey, mask, side=side), quality=quality)


def outlined(grey: NDArray[np.uint8], mask: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """Return the slice with the mask's outline, uint8 [side, side, 3]: blue, green, red."""
    large = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA if len(grey) > side else cv2.INTER_LINEAR)
    inside = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    image = cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, OUTLINE, 1)
    return np.asarray(image)


def data_uri(image: NDArray[np.uint8], *, quality: int) -> str:
    """Return an image, uint8 [rows, columns, 3] (blue, green, red), as a JPEG in a data URI."""
    # colour at full resolution, or the thin outline would fade
    colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality, *colour])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def lung_slices(lungs: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the first and the last slice with lung, or of the scan where the mask is empty.

    ``lungs``: 0 or 1, uint8 [n_slices, rows, columns].
    """
    there = np.flatnonzero(lungs.any(axis=(1, 2)))
    return (int(there[0]), int(there[-1])) if len(there) else (0, len(lungs) - 1)
