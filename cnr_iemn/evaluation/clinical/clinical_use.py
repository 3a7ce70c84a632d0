"""Decisions on one class: decision curve, likelihood ratios at its threshold, and counts at other prevalences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.operating_point import OperatingPoint
from cnr_iemn.statistics.confidence_intervals import Estimate, wilson
from cnr_iemn.statistics.likelihood_ratios import (
    DecisionCounts,
    LikelihoodRatios,
    Ratio,
    likelihood_ratios,
    probability_after,
)
from cnr_iemn.statistics.net_benefit import DecisionCurve, decision_curve

Floats = NDArray[np.float64]


class ExpectedRates(TypedDict):
    """What the decision means where ``prevalence`` of the scans have the class, per scan; fractions 0 to 1.

    ``ppv``, ``npv``: predictive values. Sensitivity and specificity are those of the validation scans.
    """

    prevalence: float
    true_positives: Estimate
    false_negatives: Estimate
    false_positives: Estimate
    true_negatives: Estimate
    ppv: Estimate
    npv: Estimate


class ClinicalUse(TypedDict):
    """A decision on ``label``, the class of the operating point, at its ``threshold``, on the validation scans.

    ``calibrated``: whether the decision curve is of calibrated probabilities. ``expected``: at the prevalence of the
    validation scans, then at those of ``prevalence=``.
    """

    label: str
    threshold: float
    counts: DecisionCounts
    positive_ratio: Ratio
    negative_ratio: Ratio
    calibrated: bool
    decision_curve: DecisionCurve
    expected: list[ExpectedRates]


def clinical_use(
    probabilities: Floats,
    truth: NDArray[np.int64],
    classes: Sequence[str],
    point: OperatingPoint | None,
    *,
    calibrated: Floats | None,
    prevalences: Sequence[float],
) -> ClinicalUse | None:
    """Return what a decision on the operating point's class means; None without one, or without scans on both sides.

    Args:
        probabilities: Of the validation scans, float64 [scans, classes], the scale of the point's threshold.
        truth: Class index of each validation scan.
        classes: In the order of the columns.
        point: Of the class.
        calibrated: Probabilities for the decision curve, float64 [scans, classes]; None: ``probabilities``.
        prevalences: Of the class among new scans, each above 0 and below 1.

    Raises:
        ConfigurationError: There are prevalences and no class that they are of.
    """
    if point is None:
        if prevalences:
            raise ConfigurationError(
                "prevalence= is the share of threshold_class, and this study has no such class. Aggregate it with "
                f"threshold_class= (one of {', '.join(classes)}), or leave prevalence out."
            )
        return None
    k = classes.index(point["label"])
    positive, decision = truth == k, probabilities[:, k] >= point["threshold"]
    if positive.all() or not positive.any():
        return None
    counts: DecisionCounts = {
        "true_positives": int((positive & decision).sum()),
        "false_negatives": int((positive & ~decision).sum()),
        "false_positives": int((~positive & decision).sum()),
        "true_negatives": int((~positive & ~decision).sum()),
    }
    ratios = likelihood_ratios(counts)
    curve = decision_curve(positive, (probabilities if calibrated is None else calibrated)[:, k])
    return {
        "label": point["label"],
        "threshold": point["threshold"],
        "counts": counts,
        "positive_ratio": ratios.positive,
        "negative_ratio": ratios.negative,
        "calibrated": calibrated is not None,
        "decision_curve": curve,
        "expected": [expected_rates(counts, ratios, value) for value in (curve["prevalence"], *prevalences)],
    }


def expected_rates(counts: DecisionCounts, ratios: LikelihoodRatios, prevalence: float) -> ExpectedRates:
    """Return what the decision means at a prevalence, above 0 and below 1.

    The predictive values have the intervals of the likelihood ratios, from which they follow.
    """
    sensitivity = wilson(counts["true_positives"], counts["true_positives"] + counts["false_negatives"])
    specificity = wilson(counts["true_negatives"], counts["false_positives"] + counts["true_negatives"])
    return {
        "prevalence": prevalence,
        "true_positives": _share(sensitivity, prevalence),
        "false_negatives": _share(_complement(sensitivity), prevalence),
        "false_positives": _share(_complement(specificity), 1 - prevalence),
        "true_negatives": _share(specificity, 1 - prevalence),
        "ppv": probability_after(prevalence, ratios.positive),
        "npv": _complement(probability_after(prevalence, ratios.negative)),
    }


def _share(rate: Estimate, whole: float) -> Estimate:
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or low is None or high is None:
        return {"value": None, "low": None, "high": None}
    return {"value": whole * value, "low": whole * low, "high": whole * high}


def _complement(rate: Estimate) -> Estimate:
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or low is None or high is None:
        return {"value": None, "low": None, "high": None}
    return {"value": 1 - value, "low": 1 - high, "high": 1 - low}
