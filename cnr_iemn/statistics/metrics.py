"""Accuracy, sensitivities and confusion matrices of scans and slices."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.schemas import VALIDATION
from cnr_iemn.statistics.confidence_intervals import Estimate, clustered_accuracy

NO_SLICES = "no labelled validation slices"


class Scores(TypedDict):
    """Metrics of one confusion matrix; fractions 0 to 1, None where there is nothing to count."""

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
    """Return the metrics of a set of scans, ready for JSON.

    Args:
        labels: True class of each scan.
        predicted: Predicted class of each scan.
        classes: In the order of the confusion matrix.

    Returns:
        ``confusion_matrix``: counts, rows true, columns predicted. ``balanced_accuracy``: mean sensitivity of the
        classes that occur. ``sensitivity``: None for a class without a scan.

    Raises:
        RunError: There is no scan, or a label is not a class.
    """
    if len(labels) == 0:
        raise RunError(
            "There is no validation scan, so nothing can be evaluated. With data.split.validation=0 all scans train, "
            "and a small share of few patients rounds down to none. Train a study with a share that gives every class "
            "a validation scan (train.py names it), or with a split file that names validation scans."
        )
    return {**score(labels, predicted, classes), "n_patients": len(labels)}


def evaluate_slices(
    table: pd.DataFrame, probabilities: NDArray[np.floating], classes: Sequence[str], *, seed: int = 0
) -> NetworkSlices:
    """Return the metrics of the validation slices that have a label; None where no slice has one.

    Args:
        table: ``PREDICTION_COLUMNS`` of a network's predictions.
        probabilities: Of the classes, float [slices, classes].
        classes: In the order of the columns of ``probabilities``.
        seed: Of the bootstrap over patients.
    """
    rows = ((table["split"] == VALIDATION) & table["slice_label"].notna()).to_numpy(dtype=bool)
    predicted = most_probable(probabilities[rows], classes)
    labelled = table[rows]
    labels = labelled["slice_label"].tolist()
    correct = np.array(predicted, dtype=str) == np.array(labels, dtype=str)
    interval = clustered_accuracy(correct, labelled["label"].tolist(), labelled["patient_id"].tolist(), seed=seed)
    return {**score(labels, predicted, classes), "n_slices": len(labels), "accuracy_interval": interval}


def most_probable(probabilities: NDArray[np.floating], classes: Sequence[str]) -> list[str]:
    """Return the class name of the highest probability in each row, the first of equals."""
    return [classes[index] for index in probabilities.argmax(axis=1)]


def score(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Scores:
    """Return the metrics of true against predicted classes. Raises RunError where a label is not a class."""
    unknown = sorted({str(name) for name in (*labels, *predicted)} - set(classes))
    if unknown:
        raise RunError(
            f"The labels {', '.join(map(repr, unknown))} are none of the classes {', '.join(classes)}. "
            "Correct the cohort's labels."
        )
    index = {name: position for position, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true, guess in zip(labels, predicted, strict=True):
        matrix[index[true], index[guess]] += 1
    totals, correct = matrix.sum(axis=1), np.diag(matrix)
    sensitivity = {name: float(correct[i] / totals[i]) if totals[i] else None for name, i in index.items()}
    recalls = [value for value in sensitivity.values() if value is not None]
    return {
        "accuracy": float(correct.sum() / totals.sum()) if recalls else None,
        "balanced_accuracy": float(np.mean(recalls)) if recalls else None,
        "sensitivity": sensitivity,
        "confusion_matrix": matrix.tolist(),
    }
