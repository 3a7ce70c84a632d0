"""Stage-2 methods on the same predictions and split: what each would have answered, and how it did within training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.comparisons import compare_with
from cnr_iemn.patients.evaluation import evaluate, most_probable
from cnr_iemn.patients.intervals import proportion_intervals, weighted_figures
from cnr_iemn.patients.methods import METHODS, Answer, Method
from cnr_iemn.patients.nested import patient_parts
from cnr_iemn.patients.slice_sets import SliceSets
from cnr_iemn.records import TRAINING, VALIDATION

Floats = NDArray[np.float64]


def study_methods(
    sets: SliceSets,
    scans: pd.DataFrame,
    classes: tuple[str, ...],
    *,
    reference: NDArray[np.bool_],
    seed: int = 0,
    methods: Mapping[str, Method] = METHODS,
) -> dict[str, Any]:
    """Return each method's figures on the validation scans, JSON-ready; all of them are exploratory.

    ``sets``: of training scans one set each. ``scans``: ``Predictions.scans``. ``reference``: whether the declared
    stage 2 has each validation scan right, for the paired comparison. ``within_training``: balanced accuracy on the
    training scans, each answered by what has learnt from other patients: the figure to choose a method by.
    """
    training, validation = scans[scans["split"] == TRAINING], scans[scans["split"] == VALIDATION]
    labels = np.array([classes.index(label) for label in training["label"]], dtype=np.int64)
    truth = validation["label"].tolist()
    found: dict[str, Any] = {}
    correct: dict[str, NDArray[np.bool_]] = {}
    for name, method in methods.items():
        probabilities = answer_sets(method([sets[k][0] for k in training.index], labels), sets, validation.index)
        predicted = most_probable(probabilities, classes)
        evaluation = evaluate(truth, predicted, classes)
        correct[name] = np.array(predicted) == np.array(truth)
        found[name] = {
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], classes),
            "within_training": _within_training(method, sets, training, labels, seed=seed),
        }
    for name, comparison in compare_with(reference, correct).items():
        found[name]["declared_against_it"] = comparison
    return found


def answer_sets(answer: Answer, sets: SliceSets, scan_ids: "pd.Index[str]") -> Floats:
    """Return the mean over each scan's sets of a method's probabilities, float64 [scans, classes]."""
    counts = [len(sets[scan_id]) for scan_id in scan_ids]
    given = answer([array for scan_id in scan_ids for array in sets[scan_id]])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(given, starts, axis=0) / np.array(counts)[:, None])


def _within_training(
    method: Method, sets: SliceSets, training: pd.DataFrame, labels: NDArray[np.int64], *, seed: int
) -> float | None:
    parts = patient_parts(training, seed=seed)
    if parts is None:
        return None
    arrays = [sets[scan_id][0] for scan_id in training.index]
    answers = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for rest, part in parts:
        answers[part] = method([arrays[k] for k in rest], labels[rest])([arrays[k] for k in part])
    return float(weighted_figures(labels, answers, np.ones((1, len(labels))))["balanced_accuracy"][0])
