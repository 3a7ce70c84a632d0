"""ROC and precision-recall curves of each class against the others, and the point at which the classifier works."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cnr_iemn.statistics.confidence_intervals import (
    RESAMPLES,
    Estimate,
    has_enough_patients,
    resample_patients,
    wilson,
)
from cnr_iemn.statistics.curve_bands import Band, precision_recall_band, roc_band
from cnr_iemn.statistics.likelihood_ratios import DecisionCounts, LikelihoodRatios, likelihood_ratios

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BinaryRates:
    """Rates of "this class" against "another class", fractions 0 to 1 with Wilson's intervals.

    ``ppv``, ``npv``: positive and negative predictive value at the prevalence of these scans. None where undefined.
    ``ratios``: likelihood ratios.
    """

    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    ratios: LikelihoodRatios


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
        roc_band, precision_recall_band: Pointwise 95% intervals; None without patients, or with too few of a class.
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
    roc_band: Band | None = None
    precision_recall_band: Band | None = None


def class_curves(
    labels: Sequence[str],
    probabilities: Floats,
    classes: Sequence[str],
    patients: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[ClassCurves, ...]:
    """Return the curves of each class that has scans within it and without.

    Args:
        labels: True class of each scan.
        probabilities: float64 [scans, classes].
        classes: In the order of the columns.
        patients: Patient of each scan, for the bands; None for none.
        resamples: Of the patients within their class.
        seed: Of the resampling.
    """
    weights = None if patients is None else _weights(labels, patients, classes, resamples=resamples, seed=seed)
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
                roc_band=None if weights is None else roc_band(positive, scores, weights),
                precision_recall_band=None if weights is None else precision_recall_band(positive, scores, weights),
            )
        )
    return tuple(curves)


def _weights(
    labels: Sequence[str], patients: Sequence[str], classes: Sequence[str], *, resamples: int, seed: int
) -> Floats | None:
    """Return how often each scan occurs in each resample; None with too few patients of a class."""
    truth = np.array([classes.index(label) for label in labels], dtype=np.int64)
    if not has_enough_patients(truth, patients):
        return None
    return resample_patients(truth, patients, resamples=resamples, rng=np.random.default_rng(seed))


def binary_rates(positive: NDArray[np.bool_], decision: NDArray[np.bool_]) -> BinaryRates:
    """Return the rates of a binary decision. ``positive``: the truth; ``decision``: the prediction; bool [scans]."""
    hits, rejections = int((positive & decision).sum()), int((~positive & ~decision).sum())
    counts: DecisionCounts = {
        "true_positives": hits,
        "false_negatives": int(positive.sum()) - hits,
        "false_positives": int((~positive).sum()) - rejections,
        "true_negatives": rejections,
    }
    return BinaryRates(
        sensitivity=wilson(hits, int(positive.sum())),
        specificity=wilson(rejections, int((~positive).sum())),
        ppv=wilson(hits, int(decision.sum())),
        npv=wilson(rejections, int((~decision).sum())),
        ratios=likelihood_ratios(counts),
    )
