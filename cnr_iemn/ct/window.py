"""From Hounsfield units to the grey image and the three channels of the networks (section 2.1.1)."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import INPUT_WINDOW
from cnr_iemn.errors import ConfigurationError


def window_to_uint8(
    hu: NDArray[np.int16], *, low: float = INPUT_WINDOW[0], high: float = INPUT_WINDOW[1]
) -> NDArray[np.uint8]:
    """Return uint8 of the same shape: ``low`` HU and below become 0, ``high`` and above 255, linear between, rounded.

    Raises ConfigurationError unless low < high.
    """
    if not low < high:
        raise ConfigurationError(f"window=[{low}, {high}]: the first value must be the lower one, in HU.")
    values = np.ascontiguousarray(hu, np.int16).reshape(1, -1)
    grey: NDArray[np.uint8] = cv2.LUT(values.view(np.uint16), _grey_table(float(low), float(high))).reshape(hu.shape)
    return grey


@lru_cache(maxsize=4)
def _grey_table(low: float, high: float) -> NDArray[np.uint8]:
    """Return the grey value of each HU value read as unsigned, uint8 [65536]."""
    values = np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.float64)
    grey: NDArray[np.uint8] = np.rint((np.clip(values, low, high) - low) / (high - low) * 255).astype(np.uint8)
    return grey


def three_channels(grey: NDArray[np.uint8], mask: NDArray[np.bool_ | np.uint8]) -> NDArray[np.uint8]:
    """Return grey image, lung mask (0 or 255) and their product, uint8 [..., 3, r, c], as section 2.1.1 joins them.

    ``grey``: uint8 [..., r, c]; ``mask``: bool or 0 and 1, of the same shape.
    """
    inside = np.asarray(mask, dtype=np.uint8)
    return np.stack([grey, inside * np.uint8(255), grey * inside], axis=-3)
