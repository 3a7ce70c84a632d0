"""ROC and precision-recall curves of each class against the others, and the point at which the classifier works."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cnr_iemn.statistics.confidence_intervals import Estimate, wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BinaryRates:
    """Rates of "this class" against "another class", fractions 0 to 1 with Wilson's intervals.

    ``ppv``, ``npv``: positive and negative predictive value at the prevalence of these scans. None where undefined.
    """

    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True)
class ClassCurves:
    """Curves of one class against the others.

    Attributes:
        label: The class.
        false_positive_rate, true_positive_rate: ROC curve, float64 [points], from (0, 0) to (1, 1).
        recall, precision: Precision-recall curve, float64 [points], recall descending to 0.
        auc: Area under the ROC curve.
        average_precision: Sum over the thresholds of precision times the step in recall.
        prevalence: Share of the class, the precision of chance.
        rates: Where the most probable class is the prediction.
    """

    label: str
    false_positive_rate: Floats
    true_positive_rate: Floats
    recall: Floats
    precision: Floats
    auc: float
    average_precision: float
    prevalence: float
    rates: BinaryRates


def class_curves(labels: Sequence[str], probabilities: Floats, classes: Sequence[str]) -> tuple[ClassCurves, ...]:
    """Return the curves of each class that has scans within it and without.

    Args:
        labels: True class of each scan.
        probabilities: float64 [scans, classes].
        classes: In the order of the columns.
    """
    truth, predicted = np.asarray(labels, dtype=str), probabilities.argmax(axis=1)
    curves = []
    for k, label in enumerate(classes):
        positive, scores = truth == label, probabilities[:, k]
        if not 0 < positive.sum() < len(positive):
            continue
        false_positive_rate, true_positive_rate, _ = roc_curve(positive, scores, drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(positive, scores)
        curves.append(
            ClassCurves(
                label=label,
                false_positive_rate=false_positive_rate,
                true_positive_rate=true_positive_rate,
                recall=recall,
                precision=precision,
                auc=float(roc_auc_score(positive, scores)),
                average_precision=float(average_precision_score(positive, scores)),
                prevalence=float(positive.mean()),
                rates=binary_rates(positive, predicted == k),
            )
        )
    return tuple(curves)


def binary_rates(positive: NDArray[np.bool_], decision: NDArray[np.bool_]) -> BinaryRates:
    """Return the rates of a binary decision. ``positive``: the truth; ``decision``: the prediction; bool [scans]."""
    hits, rejections = int((positive & decision).sum()), int((~positive & ~decision).sum())
    return BinaryRates(
        sensitivity=wilson(hits, int(positive.sum())),
        specificity=wilson(rejections, int((~positive).sum())),
        ppv=wilson(hits, int(decision.sum())),
        npv=wilson(rejections, int((~decision).sum())),
    )
