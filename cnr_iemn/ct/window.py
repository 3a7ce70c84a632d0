"""From Hounsfield units to the grey image and the three channels of the networks (section 2.1.1)."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled
from cnr_iemn.errors import ConfigurationError

_LOWEST = -(2**15)


def window_to_uint8(hu: NDArray[np.int16], *, low: float = -1000, high: float = 400) -> NDArray[np.uint8]:
    """Return uint8 of the same shape: ``low`` HU and below become 0, ``high`` and above 255, linear between, rounded.

    The paper names no window; -1000 to 400 HU spans lung and soft tissue. Raises ConfigurationError unless low < high.
    """
    if not low < high:
        raise ConfigurationError(f"window=[{low}, {high}]: the first value must be the lower one, in HU.")
    grey = np.empty(hu.shape, np.uint8)
    _look_up(np.ascontiguousarray(hu, np.int16).reshape(-1), _table(float(low), float(high)), grey.reshape(-1))
    return grey


@lru_cache(maxsize=4)
def _table(low: float, high: float) -> NDArray[np.uint8]:
    """Return the grey value of each HU value from the lowest up, uint8 [65536]."""
    values = np.arange(_LOWEST, -_LOWEST)
    grey: NDArray[np.uint8] = np.rint((np.clip(values, low, high) - low) / (high - low) * 255).astype(np.uint8)
    return grey


@compiled
def _look_up(hu: NDArray[np.int16], table: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    for i in range(hu.size):
        out[i] = table[int(hu[i]) - _LOWEST]


def three_channels(grey: NDArray[np.uint8], mask: NDArray[np.bool_ | np.uint8]) -> NDArray[np.uint8]:
    """Return grey image, lung mask (0 or 255) and their product, uint8 [..., 3, r, c], as section 2.1.1 joins them.

    ``grey``: uint8 [..., r, c]; ``mask``: bool or 0 and 1, of the same shape.
    """
    inside = np.asarray(mask, dtype=np.uint8)
    return np.stack([grey, inside * np.uint8(255), grey * inside], axis=-3)
