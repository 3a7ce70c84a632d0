"""What a number of scans can tell: the half-width of Wilson's interval, and the number for a given one."""

import numpy as np

from cnr_iemn.statistics.confidence_intervals import wilson_bounds

MAX_SCANS = 1_000_000


def half_width(share: float, n: int) -> float:
    """Return half the length of Wilson's 95% interval of a share among ``n`` scans, fractions 0 to 1."""
    low, high = wilson_bounds(np.array(share), n)
    return float(high - low) / 2


def scans_for(share: float, target: float) -> int:
    """Return the smallest number of scans whose interval at this share has at most the target half-width.

    ``target``: above 0 and below 0.5. Bisection: the half-width falls as the number grows.
    """
    low, high = 0, MAX_SCANS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(share, middle) <= target else (middle, high)
    return high
