"""Likelihood ratios of a binary decision, and what follows from them at another prevalence."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import norm
from typing_extensions import TypedDict

from cnr_iemn.statistics.confidence_intervals import CONFIDENCE, Estimate

_WIDEST = 60.0
"""Of a ratio's logarithm, beyond every interval that counts of scans can have."""


class Ratio(TypedDict):
    """A ratio of two proportions with its 95% interval. ``value``, ``high``: None where infinite.

    All three are None where a proportion has no scan, or both are 0.
    """

    value: float | None
    low: float | None
    high: float | None


class DecisionCounts(TypedDict):
    """Scans by truth and decision."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


@dataclass(frozen=True)
class LikelihoodRatios:
    """``positive``: how much more frequent the decision is in scans with the class; ``negative``: its absence."""

    positive: Ratio
    negative: Ratio


def likelihood_ratios(counts: DecisionCounts) -> LikelihoodRatios:
    """Return both likelihood ratios with the score interval of ``ratio_of``."""
    true_positives, false_negatives = counts["true_positives"], counts["false_negatives"]
    false_positives, true_negatives = counts["false_positives"], counts["true_negatives"]
    positives, negatives = true_positives + false_negatives, false_positives + true_negatives
    return LikelihoodRatios(
        ratio_of(true_positives, positives, false_positives, negatives),
        ratio_of(false_negatives, positives, true_negatives, negatives),
    )


def ratio_of(first: int, n_first: int, second: int, n_second: int, *, confidence: float = CONFIDENCE) -> Ratio:
    """Return the ratio of two independent proportions with its score interval (Koopman, Biometrics 1984).

    The interval holds at small counts and with a count of 0, where the one of the logarithm is not defined.

    Args:
        first, n_first: Successes of trials of the numerator.
        second, n_second: Those of the denominator.
        confidence: Coverage of the interval.
    """
    if n_first == 0 or n_second == 0 or first == second == 0:
        return {"value": None, "low": None, "high": None}
    z = float(norm.ppf((1 + confidence) / 2))

    def excess(sign: int) -> Callable[[float], float]:
        return lambda logarithm: sign * _score(first, n_first, second, n_second, math.exp(logarithm)) - z

    value = None if second == 0 else first / n_first / (second / n_second)
    low = 0.0 if first == 0 else math.exp(brentq(excess(1), -_WIDEST, _WIDEST))
    high = None if second == 0 else math.exp(brentq(excess(-1), -_WIDEST, _WIDEST))
    return {"value": value, "low": low, "high": high}


def _score(first: int, n_first: int, second: int, n_second: int, ratio: float) -> float:
    """Return the score statistic of the hypothesis that the proportions have this ratio; it falls as the ratio rises.

    The proportions under the hypothesis are the maximum-likelihood ones, a root of a quadratic.
    """
    a = (n_first + n_second) * ratio
    b = -(ratio * (n_first + second) + first + n_second)
    c = first + second
    p_second = 2 * c / (-b + math.sqrt(max(b * b - 4 * a * c, 0.0)))  # the smaller root, without cancellation
    p_first = ratio * p_second
    variance = p_first * (1 - p_first) / n_first + ratio * ratio * p_second * (1 - p_second) / n_second
    distance = first / n_first - ratio * second / n_second
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def probability_after(prevalence: float, ratio: Ratio) -> Estimate:
    """Return the probability of the class after a decision with this likelihood ratio, fractions 0 to 1.

    After a positive decision it is the positive predictive value, after a negative one 1 less the negative predictive
    value. It rises with the ratio, so the bounds of the ratio give its own. ``prevalence``: above 0 and below 1.
    """
    odds = prevalence / (1 - prevalence)

    def after(bound: float | None) -> float:
        return 1.0 if bound is None else odds * bound / (1 + odds * bound)

    if ratio["low"] is None:
        return {"value": None, "low": None, "high": None}
    return {"value": after(ratio["value"]), "low": after(ratio["low"]), "high": after(ratio["high"])}
