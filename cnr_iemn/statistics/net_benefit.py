"""Decision curve of a class: the net benefit of acting on its probability, against acting on all scans or on none.

Vickers and Elkin, Medical Decision Making 2006. At a threshold probability p a reader accepts (1 - p) / p false
positives for a true positive; net benefit counts true positives per scan less false positives at that rate.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.statistics.confidence_intervals import wilson_bounds

Floats = NDArray[np.float64]
THRESHOLDS = tuple(round(0.01 * k, 2) for k in range(1, 100))


class DecisionCurve(TypedDict):
    """Net benefit by threshold, in true positives per scan. ``prevalence``: of the class, among these scans.

    ``net_benefit`` with its 95% interval ``low`` to ``high``: of acting on scans whose probability reaches the
    threshold. ``act_on_all``: of acting on each scan; acting on none has 0.
    """

    prevalence: float
    thresholds: list[float]
    net_benefit: list[float]
    low: list[float]
    high: list[float]
    act_on_all: list[float]


def decision_curve(
    positive: NDArray[np.bool_], probabilities: Floats, thresholds: Sequence[float] = THRESHOLDS
) -> DecisionCurve:
    """Return the decision curve of a class.

    Net benefit is a difference of two independent proportions, the sensitivity and the false positive rate, each with
    its weight. Its interval is made from Wilson's intervals of the two (Zou and Donner, Statistics in Medicine 2008),
    at the prevalence of these scans.

    Args:
        positive: Whether each scan has the class, bool [scans]; neither none nor all.
        probabilities: Of the class, float64 [scans].
        thresholds: Above 0 and below 1.
    """
    at = np.array(thresholds)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    prevalence = n_positive / len(positive)
    harm = (1 - prevalence) * at / (1 - at)
    decisions = probabilities[:, None] >= at
    true, false = decisions[positive].mean(axis=0), decisions[~positive].mean(axis=0)
    true_low, true_high = wilson_bounds(true, n_positive)
    false_low, false_high = wilson_bounds(false, n_negative)
    value = prevalence * true - harm * false
    below = np.hypot(prevalence * (true - true_low), harm * (false_high - false))
    above = np.hypot(prevalence * (true_high - true), harm * (false - false_low))
    return {
        "prevalence": prevalence,
        "thresholds": at.tolist(),
        "net_benefit": value.tolist(),
        "low": (value - below).tolist(),
        "high": (value + above).tolist(),
        "act_on_all": (prevalence - harm).tolist(),
    }
