"""Pointwise bands of ROC and precision-recall curves: a bootstrap over patients, never narrower than Wilson's interval.

The bootstrap alone fails where a rate is near 1: all resamples of scans above every threshold are above it, and the
band has no width (``benchmarks/curve_coverage.py``). Wilson's interval of the rate at a fixed threshold has one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.statistics.confidence_intervals import CONFIDENCE, wilson_bounds

Floats = NDArray[np.float64]
POINTS = 101
MIN_BEYOND = 2
"""Scans beyond the threshold that a band needs: the rate at one scan or none depends on that scan alone."""


@dataclass(frozen=True)
class Band:
    """A pointwise 95% interval of a curve: ``low`` and ``high`` at each ``x``, float64 [points], fractions 0 to 1."""

    x: Floats
    low: Floats
    high: Floats


def roc_band(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Band:
    """Return the band of the sensitivity at each false positive rate.

    Where fewer than ``MIN_BEYOND`` negatives lie above the threshold the band reaches down to 0: the curve rises, so
    the upper bound further right holds there, and nothing bounds it from below.

    Args:
        positive: Whether each scan has the class, bool [scans]; neither none nor all.
        scores: Of the class, float64 [scans].
        weights: How often each scan occurs in each resample, float64 [resamples, scans] of ``resample_patients``.
    """
    x = np.linspace(0, 1, POINTS)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    original = _curve(positive, scores, np.ones((1, len(scores))), x)[0]
    drawn = _curve(positive, scores, weights, x)
    tail = (1 - CONFIDENCE) / 2
    lowest, highest = np.quantile(drawn, [tail, 1 - tail], axis=0)
    wilson_low, wilson_high = wilson_bounds(original, n_positive)
    low, high = np.minimum(lowest, wilson_low), np.maximum(highest, wilson_high)
    first = min(int(np.ceil(MIN_BEYOND / n_negative * (POINTS - 1))), POINTS - 1)
    low[:first], high[:first] = 0.0, np.maximum(high[:first], high[first])
    return Band(x, low, high)


def precision_recall_band(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Band:
    """Return the band of the precision at each recall above 0, at the class shares of these scans.

    The precision follows from recall, false positive rate and class share. The band of the false positive rate at a
    recall is that of ``roc_band`` with the classes exchanged. The arguments are those of ``roc_band``.
    """
    other = roc_band(~positive, -scores, weights)
    recall, share = 1 - other.x, float(positive.mean())
    true = share * recall[:-1]
    low, high = (true / (true + (1 - share) * (1 - rate[:-1])) for rate in (other.low, other.high))
    return Band(recall[:-1][::-1], low[::-1], high[::-1])


def _curve(positive: NDArray[np.bool_], scores: Floats, weights: Floats, x: Floats) -> Floats:
    """Return the sensitivity at each false positive rate ``x`` for each row of weights, float64 [rows, points]."""
    levels, level = np.unique(-scores, return_inverse=True)
    at_level = np.zeros((len(scores), len(levels)))
    at_level[np.arange(len(scores)), level] = 1
    rates = []
    for members in (~positive, positive):
        counts = np.cumsum((weights * members) @ at_level, axis=1)
        rates.append(np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))))
    return np.array([np.interp(x, false, true) for false, true in zip(*rates, strict=True)])
