"""How far figures of so few patients can be trusted: Wilson's intervals and a bootstrap over patients."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Floats = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95


class Estimate(TypedDict):
    """A figure with its interval; None where too few cases are there to compute it."""

    value: float | None
    low: float | None
    high: float | None


class Proportions(TypedDict):
    """Accuracy, and sensitivity by class."""

    accuracy: Estimate
    sensitivity: dict[str, Estimate]


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson, JASA 1927), fractions 0 to 1."""
    if n == 0:
        return {"value": None, "low": None, "high": None}
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return {"value": successes / n, "low": float(interval.low), "high": float(interval.high)}


def patient_bootstrap(
    labels: Sequence[int],
    probabilities: Floats,
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return accuracy, balanced accuracy, macro F1 and macro AUC with percentile intervals, fractions 0 to 1.

    Patients are drawn with replacement within their class (that of their first scan), each with all their scans; the
    models stay as they are, so the interval tells how other patients, not other training, would change the figures.

    ``labels``: class index of each scan. ``probabilities``: float64 [scans, classes]; the most probable class is the
    answer. ``patients``: whose scan each one is. A figure that some resamples cannot have is None.
    """
    truth = np.asarray(labels, dtype=np.int64)
    drawn = draw_patients(truth, patients, resamples=resamples, rng=np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(truth)), drawn])  # first the patients as they are
    figures = weighted_figures(truth, probabilities, weights)
    return {name: _estimate(values, confidence) for name, values in figures.items()}


def paired_bootstrap(
    labels: Sequence[int],
    probabilities: tuple[Floats, Floats],
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the difference, first less second, of each figure of ``patient_bootstrap`` with its percentile interval.

    ``probabilities``: of both for the same scans; each resample of patients is one for both.
    """
    truth = np.asarray(labels, dtype=np.int64)
    drawn = draw_patients(truth, patients, resamples=resamples, rng=np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(truth)), drawn])
    first, second = (weighted_figures(truth, each, weights) for each in probabilities)
    return {name: _estimate(first[name] - second[name], confidence) for name in first}


def _estimate(values: Floats, confidence: float) -> Estimate:
    """Return the first value, between the percentiles of the others; None where one of them is not to be had."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    known = bool(np.isfinite(values).all())
    return {
        "value": float(values[0]) if known else None,
        "low": float(low) if known else None,
        "high": float(high) if known else None,
    }


def clustered_accuracy(
    right: NDArray[np.bool_], labels: Sequence[str], patients: Sequence[str], *, seed: int = 0
) -> Estimate:
    """Return the share of right cases with its percentile interval over patients, fractions 0 to 1; None without cases.

    ``right``: whether each case (a slice) is answered rightly. ``labels``: the class of its scan, within which patients
    are drawn. ``patients``: whose case each one is: those of one patient are alike, and a case is no patient.
    """
    if len(right) == 0:
        return {"value": None, "low": None, "high": None}
    owners, first, owner = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    hits, counts = np.bincount(owner, right), np.bincount(owner)
    _, truth = np.unique(np.asarray(labels, dtype=str)[first], return_inverse=True)
    drawn = draw_patients(truth, owners.tolist(), resamples=RESAMPLES, rng=np.random.default_rng(seed))
    return _estimate(np.append(right.mean(), (drawn @ hits) / (drawn @ counts)), CONFIDENCE)


def draw_patients(
    truth: NDArray[np.int64], patients: Sequence[str], *, resamples: int, rng: np.random.Generator
) -> Floats:
    """Return how often each scan is there in resamples of patients within their class, float64 [resamples, scans].

    ``truth``: class index of each scan; a patient is of the class of the first scan. ``patients``: whose scan each one
    is. As many patients of a class as there are, drawn with replacement, each with all scans.
    """
    _, first, owner = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    drawn = np.zeros((resamples, len(first)))
    for label in np.unique(truth[first]):
        members = np.flatnonzero(truth[first] == label)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return drawn[:, owner]


def weighted_figures(truth: NDArray[np.int64], probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return accuracy, balanced accuracy, macro F1 and macro AUC for each row of weights, float64 [rows].

    ``truth``: int64 [scans]. ``probabilities``: [scans, classes]. ``weights``: how often each scan counts, [rows,
    scans]. Classes without a scan are left out of the means. NaN where a class of ``truth`` has no weight.
    """
    answers = probabilities.argmax(axis=1)
    occurring = np.unique(truth)
    right = weights @ (answers == truth)
    recall, f1, auc = [], [], []
    for label in occurring:
        true, called = truth == label, answers == label
        positives, hits = weights @ true, weights @ (true & called)
        with np.errstate(invalid="ignore"):
            recall.append(hits / positives)
            f1.append(2 * hits / (positives + weights @ called))
        auc.append(weighted_auc(true, probabilities[:, label], weights))
    return {
        "accuracy": right / weights.sum(axis=1),
        "balanced_accuracy": np.mean(recall, axis=0),
        "macro_f1": np.mean(f1, axis=0),
        "macro_auc": np.mean(auc, axis=0),
    }


def rank_auc(ranks: Floats, true: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve from the scores' ranks (Mann and Whitney 1947), ties at their mean rank.

    ``ranks``: float64 [scans], of ``scipy.stats.rankdata``, or the mean of several. ``true``: the positives, of which
    there is at least one, as of the others.
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
