"""Two answers for the same patients: which is right more often, and could that be chance?"""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from cnr_iemn.patients.intervals import CONFIDENCE


class Comparison(TypedDict):
    """One against another on the same scans. ``only_first``: scans that the first alone has right.

    ``difference``: accuracy of the first less that of the second, with its interval. ``p``: exact McNemar; ``p_holm``:
    among all comparisons made together.
    """

    only_first: int
    only_second: int
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


def compare_with(first: NDArray[np.bool_], others: Mapping[str, NDArray[np.bool_]]) -> dict[str, Comparison]:
    """Compare one method with each of several; Holm's correction over them.

    ``first``, ``others``: whether each scan is answered rightly, bool [scans], in one order.
    """
    found: dict[str, Comparison] = {}
    for name, other in others.items():
        wins, losses = int((first & ~other).sum()), int((~first & other).sum())
        low, high = paired_interval(wins, losses, len(first))
        found[name] = {
            "only_first": wins,
            "only_second": losses,
            "n": len(first),
            "difference": (wins - losses) / len(first),
            "low": low,
            "high": high,
            "p": mcnemar_p(wins, losses),
            "p_holm": math.nan,
        }
    for comparison, p in zip(found.values(), holm([each["p"] for each in found.values()]), strict=True):
        comparison["p_holm"] = p
    return found


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the exact two-sided p of McNemar's test (Psychometrika 1947) from the two discordant counts."""
    return 1.0 if wins + losses == 0 else float(binomtest(wins, wins + losses, 0.5).pvalue)


def paired_interval(wins: int, losses: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of the difference of two paired proportions (Tango, Statistics in Medicine 1998).

    ``wins``, ``losses``: scans that only the first, only the second has right, of ``n``. It holds at small counts, also
    without any discordant scan.
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
    """Return |score statistic| of the hypothesis that the paired difference is this."""
    # the losses' probability that is most likely under the hypothesis: the larger root of its quadratic
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
