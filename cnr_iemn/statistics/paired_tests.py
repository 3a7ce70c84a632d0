"""Paired comparison of two sets of predictions for the same scans."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from typing_extensions import TypedDict

from cnr_iemn.statistics.confidence_intervals import CONFIDENCE


class Comparison(TypedDict):
    """Two sets of predictions for the same ``n`` scans.

    ``only_first``, ``only_second``: scans that one of the two alone predicts correctly. ``difference``: accuracy of the
    first minus that of the second, with its interval. ``p``: exact McNemar; ``p_holm``: adjusted for all comparisons.
    """

    only_first: int
    only_second: int
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


def compare_with(reference: NDArray[np.bool_], methods: Mapping[str, NDArray[np.bool_]]) -> dict[str, Comparison]:
    """Compare a reference with each of several methods, with Holm's correction over them.

    ``reference``, ``methods``: whether each scan is predicted correctly, bool [scans], in one order.
    """
    comparisons: dict[str, Comparison] = {}
    for name, correct in methods.items():
        wins, losses, n = int((reference & ~correct).sum()), int((~reference & correct).sum()), len(reference)
        low, high = paired_interval(wins, losses, n)
        comparisons[name] = {
            "only_first": wins,
            "only_second": losses,
            "n": n,
            "difference": (wins - losses) / n,
            "low": low,
            "high": high,
            "p": mcnemar_p(wins, losses),
            "p_holm": math.nan,
        }
    adjusted = holm([comparison["p"] for comparison in comparisons.values()])
    for comparison, p in zip(comparisons.values(), adjusted, strict=True):
        comparison["p_holm"] = p
    return comparisons


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the exact two-sided p of McNemar's test (Psychometrika 1947) from the two discordant counts."""
    return 1.0 if wins + losses == 0 else float(binomtest(wins, wins + losses, 0.5).pvalue)


def paired_interval(wins: int, losses: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of the difference of two paired proportions (Tango, Statistics in Medicine 1998).

    ``wins``, ``losses``: scans of ``n`` that only the first, or only the second, predicts correctly. The interval holds
    at small counts, also without a discordant scan.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    observed = (wins - losses) / n

    def bound(end: float) -> float:
        inside, outside = observed, end
        for _ in range(60):  # the statistic grows from the observed difference outwards
            middle = (inside + outside) / 2
            if _tango(wins, losses, n, middle) < z:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    return bound(-1.0), bound(1.0)


def _tango(wins: int, losses: int, n: int, difference: float) -> float:
    """Return the absolute score statistic of the hypothesis that the paired difference is ``difference``."""
    # the maximum-likelihood probability of a loss under the hypothesis: the larger root of its quadratic
    a = 2.0 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    distance = abs(wins - losses - n * difference)
    if variance <= 0:
        return 0.0 if distance == 0 else math.inf
    return distance / math.sqrt(variance)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p adjusted for their number, step by step from the smallest (Holm, Scandinavian J. Statistics 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
