"""Confidence intervals: Wilson's for proportions, and a bootstrap over patients."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from typing_extensions import TypedDict

Floats = NDArray[np.float64]
MetricName = Literal["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"]
RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_PATIENTS = 10
"""Patients of each class that a bootstrap needs: with four, resamples repeat and the interval is too short."""


class Estimate(TypedDict):
    """A metric with its confidence interval; None where there is nothing to measure.

    ``low`` and ``high`` alone are None where a bootstrap has fewer than ``MIN_PATIENTS`` patients of a class.
    """

    value: float | None
    low: float | None
    high: float | None


class Proportions(TypedDict):
    """Accuracy, and sensitivity by class."""

    accuracy: Estimate
    sensitivity: dict[str, Estimate]


class Intervals(TypedDict):
    """Wilson's intervals, and those of ``patient_bootstrap``."""

    wilson: Proportions
    patient_bootstrap: dict[MetricName, Estimate]


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson, JASA 1927), fractions 0 to 1."""
    if n == 0:
        return {"value": None, "low": None, "high": None}
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return {"value": successes / n, "low": float(interval.low), "high": float(interval.high)}


def wilson_bounds(shares: Floats, n: int, *, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """Return the bounds of Wilson's score interval of shares among ``n``, which need not be whole counts."""
    z = float(norm.ppf((1 + confidence) / 2))
    middle = (shares + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(shares * (1 - shares) / n + z * z / (4 * n * n))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def patient_bootstrap(
    labels: Sequence[int],
    probabilities: Floats,
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[MetricName, Estimate]:
    """Return accuracy, balanced accuracy, macro F1 and macro AUC with percentile intervals, fractions 0 to 1.

    Patients are drawn with replacement within the class of their first scan, each with all their scans. The models stay
    fixed: the interval covers other patients, not other training.

    Args:
        labels: Class index of each scan.
        probabilities: float64 [scans, classes]; the most probable class is the prediction.
        patients: Patient of each scan.
        resamples: Number of resamples.
        confidence: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        An estimate by metric; None where some resamples do not define the metric.
    """
    truth = np.asarray(labels, dtype=np.int64)
    enough = has_enough_patients(truth, patients)
    drawn = resample_patients(truth, patients, resamples=resamples, rng=np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(truth)), drawn])  # first the patients as they are
    metrics = weighted_metrics(truth, probabilities, weights)
    return {name: _estimate(values, confidence, enough=enough) for name, values in metrics.items()}


def paired_bootstrap(
    labels: Sequence[int],
    probabilities: tuple[Floats, Floats],
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[MetricName, Estimate]:
    """Return the difference, first minus second, of each metric of ``patient_bootstrap`` with its interval.

    ``probabilities``: two arrays for the same scans; both are measured on the same resamples of patients.
    """
    truth = np.asarray(labels, dtype=np.int64)
    drawn = resample_patients(truth, patients, resamples=resamples, rng=np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(truth)), drawn])
    first, second = (weighted_metrics(truth, scores, weights) for scores in probabilities)
    enough = has_enough_patients(truth, patients)
    return {name: _estimate(first[name] - second[name], confidence, enough=enough) for name in first}


def has_enough_patients(labels: NDArray[np.int64], patients: Sequence[str]) -> bool:
    """Return whether each class has ``MIN_PATIENTS`` patients; a patient has the class of the first scan."""
    _, first = np.unique(np.asarray(patients, dtype=str), return_index=True)
    return bool(np.unique(labels[first], return_counts=True)[1].min() >= MIN_PATIENTS)


def _estimate(values: Floats, confidence: float, *, enough: bool) -> Estimate:
    """Return the first value with the percentiles of the others; None where one of them is undefined.

    Percentiles that coincide are None: all resamples of perfect predictions are perfect, which proves nothing.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    defined = bool(np.isfinite(values).all())
    enough = enough and bool(low < high)
    return {
        "value": float(values[0]) if defined else None,
        "low": float(low) if defined and enough else None,
        "high": float(high) if defined and enough else None,
    }


def clustered_accuracy(
    correct: NDArray[np.bool_], labels: Sequence[str], patients: Sequence[str], *, seed: int = 0
) -> Estimate:
    """Return the accuracy of slices with its percentile interval over patients, fractions 0 to 1; None without slices.

    Args:
        correct: Whether each slice is predicted correctly, bool [slices].
        labels: Class of each slice's scan; patients are resampled within it.
        patients: Patient of each slice. Slices of a patient are not independent.
        seed: Of the resampling.
    """
    if len(correct) == 0:
        return {"value": None, "low": None, "high": None}
    owners, first, owner = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    hits, counts = np.bincount(owner, correct), np.bincount(owner)
    _, truth = np.unique(np.asarray(labels, dtype=str)[first], return_inverse=True)
    drawn = resample_patients(truth, owners.tolist(), resamples=RESAMPLES, rng=np.random.default_rng(seed))
    enough = has_enough_patients(truth, owners.tolist())
    return _estimate(np.append(correct.mean(), (drawn @ hits) / (drawn @ counts)), CONFIDENCE, enough=enough)


def resample_patients(
    truth: NDArray[np.int64], patients: Sequence[str], *, resamples: int, rng: np.random.Generator
) -> Floats:
    """Return how often each scan occurs in resamples of patients within their class, float64 [resamples, scans].

    ``truth``: class index of each scan, int64 [scans]; a patient has the class of the first scan. Each resample has as
    many patients of a class as the cohort, drawn with replacement, each with all their scans.
    """
    _, first, owner = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    drawn = np.zeros((resamples, len(first)))
    for label in np.unique(truth[first]):
        members = np.flatnonzero(truth[first] == label)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return drawn[:, owner]


def weighted_metrics(truth: NDArray[np.int64], probabilities: Floats, weights: Floats) -> dict[MetricName, Floats]:
    """Return accuracy, balanced accuracy, macro F1 and macro AUC for each row of weights, float64 [rows].

    ``truth``: int64 [scans]. ``probabilities``: [scans, classes]. ``weights``: of each scan, [rows, scans]. The means
    are over the classes that occur; NaN where a class of ``truth`` has no weight.
    """
    answers = probabilities.argmax(axis=1)
    occurring = np.unique(truth)
    right = weights @ (answers == truth)
    recall, f1, auc = [], [], []
    for label in occurring:
        true, predicted = truth == label, answers == label
        positives, hits = weights @ true, weights @ (true & predicted)
        with np.errstate(invalid="ignore"):
            recall.append(hits / positives)
            f1.append(2 * hits / (positives + weights @ predicted))
        auc.append(weighted_auc(true, probabilities[:, label], weights))
    return {
        "accuracy": right / weights.sum(axis=1),
        "balanced_accuracy": np.mean(recall, axis=0),
        "macro_f1": np.mean(f1, axis=0),
        "macro_auc": np.mean(auc, axis=0),
    }


def rank_auc(ranks: Floats, true: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve from the scores' ranks (Mann and Whitney 1947), ties at their mean rank.

    ``ranks``: float64 [scans], of ``scipy.stats.rankdata``. ``true``: the positives, neither none nor all.
    """
    positives = int(true.sum())
    return float((ranks[true].mean() - (positives + 1) / 2) / (len(true) - positives))


def proportion_intervals(confusion_matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Proportions:
    """Return Wilson's intervals of accuracy and of each class's sensitivity. ``confusion_matrix``: rows true."""
    matrix = np.asarray(confusion_matrix, dtype=np.int64)
    right, totals = np.diag(matrix), matrix.sum(axis=1)
    return {
        "accuracy": wilson(int(right.sum()), int(totals.sum())),
        "sensitivity": {name: wilson(int(right[k]), int(totals[k])) for k, name in enumerate(classes)},
    }


def weighted_auc(true: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve, ties counted half, for each row of weights, float64 [rows]."""
    levels, level = np.unique(scores, return_inverse=True)
    at_level = np.zeros((len(scores), len(levels)))
    at_level[np.arange(len(scores)), level] = 1
    positives, negatives = (weights * true) @ at_level, (weights * ~true) @ at_level
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore"):
        area: Floats = (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))
    return area
