"""Accuracy, sensitivities and confusion matrices of scans and slices, and the exact test against chance."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cnr_iemn.errors import RunError
from cnr_iemn.patients.intervals import Estimate, clustered_accuracy
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.records import VALIDATION


class Scores(TypedDict):
    """Figures of one confusion matrix; fractions 0 to 1, None where nothing was there to count."""

    accuracy: float | None
    balanced_accuracy: float | None
    sensitivity: dict[str, float | None]
    confusion_matrix: list[list[int]]


class Evaluation(Scores):
    """Scores of scans."""

    n_patients: int


class SliceEvaluation(Scores):
    """Scores of slices."""

    n_slices: int


class NetworkSlices(SliceEvaluation):
    """Scores of a network's slices, with the interval of the accuracy over patients."""

    accuracy_interval: Estimate


def evaluate(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Evaluation:
    """Return the figures of a set of scans, JSON-ready.

    ``labels``, ``predicted``: true and predicted class name of each scan. ``confusion_matrix``: counts, rows true,
    columns predicted, in class order. ``balanced_accuracy``: mean sensitivity of the classes that occur.
    ``sensitivity``: None for a class without a scan. Raises RunError where there is no scan or a name is no class.
    """
    if len(labels) == 0:
        raise RunError(
            "There is no validation scan, so nothing can be evaluated: the split holds none out "
            "(data.split.validation=0 trains on all). Train a study with data.split.validation above 0, or with a "
            "split file that names validation scans."
        )
    return {**score(labels, predicted, classes), "n_patients": len(labels)}


def slice_accuracy(predictions: Predictions, *, seed: int = 0) -> NetworkSlices:
    """Return the figures of the validation slices that carry a label; None figures where no slice does.

    ``seed``: of the bootstrap over patients.
    """
    table = predictions.table
    chosen = ((table["split"] == VALIDATION) & table["slice_label"].notna()).to_numpy(dtype=bool)
    predicted = most_probable(predictions.probabilities[chosen], predictions.metadata.classes)
    labelled = table[chosen]
    labels = labelled["slice_label"].tolist()
    right = np.array(predicted, dtype=str) == np.array(labels, dtype=str)
    interval = clustered_accuracy(right, labelled["label"].tolist(), labelled["patient_id"].tolist(), seed=seed)
    scores = score(labels, predicted, predictions.metadata.classes)
    return {**scores, "n_slices": len(labels), "accuracy_interval": interval}


def most_probable(probabilities: NDArray[np.floating], classes: Sequence[str]) -> list[str]:
    """Return the class name of the highest probability in each row, the first of equals."""
    return [classes[index] for index in probabilities.argmax(axis=1)]


def score(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Scores:
    """Return the figures of true against predicted class names. Raises RunError where a name is no class."""
    unknown = sorted({str(name) for name in (*labels, *predicted)} - set(classes))
    if unknown:
        raise RunError(
            f"The names {', '.join(map(repr, unknown))} are none of the classes {', '.join(classes)}. "
            "Correct the cohort's labels."
        )
    index = {name: position for position, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true, guess in zip(labels, predicted, strict=True):
        matrix[index[true], index[guess]] += 1
    totals, right = matrix.sum(axis=1), np.diag(matrix)
    sensitivity = {name: float(right[i] / totals[i]) if totals[i] else None for name, i in index.items()}
    known = [value for value in sensitivity.values() if value is not None]
    return {
        "accuracy": float(right.sum() / totals.sum()) if known else None,
        "balanced_accuracy": float(np.mean(known)) if known else None,
        "sensitivity": sensitivity,
        "confusion_matrix": matrix.tolist(),
    }


def binomial_p(correct: int, n: int, chance: float) -> float:
    """Return the exact one-sided p of ``correct`` or more right answers in ``n``, each right by ``chance`` (0 to 1)."""
    return float(binomtest(correct, n, chance, alternative="greater").pvalue)
