"""From Hounsfield units to the grey image and the three channels of the networks (section 2.1.1)."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.errors import ConfigurationError

_LARGEST = 2**15 - 1


def window_to_uint8(hu: NDArray[np.int16], *, low: float = -1000, high: float = 400) -> NDArray[np.uint8]:
    """Return uint8 of the same shape: ``low`` HU and below become 0, ``high`` and above 255, linear between, rounded.

    The paper names no window; -1000 to 400 HU spans lung and soft tissue. Raises ConfigurationError unless low < high.
    """
    if not low < high:
        raise ConfigurationError(f"window=[{low}, {high}]: the first value must be the lower one, in HU.")
    flat = np.ascontiguousarray(hu, np.int16).reshape(len(hu), -1)
    if _scales_alike(float(low), float(high)) and flat.max(initial=0) <= _LARGEST + low:
        return _scaled(flat, low, high).reshape(hu.shape)
    # seen as unsigned, the negative values come after the positive ones
    grey: NDArray[np.uint8] = cv2.LUT(flat.view(np.uint16), _table(float(low), float(high))).reshape(hu.shape)
    return grey


@lru_cache(maxsize=4)
def _table(low: float, high: float) -> NDArray[np.uint8]:
    """Return the grey value of each HU value, uint8 [65536], those below 0 after the others."""
    values = np.arange(-(2**15), 2**15)
    return np.roll(np.rint((np.clip(values, low, high) - low) / (high - low) * 255).astype(np.uint8), 2**15)


def _scaled(hu: NDArray[np.int16], low: float, high: float) -> NDArray[np.uint8]:
    """Return what the table gives, computed: in half the time. No value may be above 32767 + ``low``."""
    above = np.subtract(hu, np.int16(low))
    _, above = cv2.threshold(above, 0, 0, cv2.THRESH_TOZERO)
    return np.asarray(cv2.convertScaleAbs(above, alpha=255 / (high - low)), np.uint8)


@lru_cache(maxsize=4)
def _scales_alike(low: float, high: float) -> bool:
    """Tell whether ``_scaled`` gives what the table gives, for every value: it rounds in single precision."""
    if not (low.is_integer() and -_LARGEST <= low <= 0):
        return False
    values = np.arange(-_LARGEST - 1, _LARGEST + int(low) + 1).astype(np.int16)
    return np.array_equal(_scaled(values[None], low, high)[0], _table(low, high)[values.view(np.uint16)])


def three_channels(grey: NDArray[np.uint8], mask: NDArray[np.bool_ | np.uint8]) -> NDArray[np.uint8]:
    """Return grey image, lung mask (0 or 255) and their product, uint8 [..., 3, r, c], as section 2.1.1 joins them.

    ``grey``: uint8 [..., r, c]; ``mask``: bool or 0 and 1, of the same shape.
    """
    inside = np.asarray(mask, dtype=np.uint8)
    return np.stack([grey, inside * np.uint8(255), grey * inside], axis=-3)
