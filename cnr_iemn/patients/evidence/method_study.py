"""Stage-2 methods on the same predictions and split: what each would have answered, and how it did within training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.evaluation import evaluate, most_probable
from cnr_iemn.patients.evidence.comparisons import compare_with
from cnr_iemn.patients.evidence.operating_point import operating_point
from cnr_iemn.patients.intervals import proportion_intervals, weighted_figures
from cnr_iemn.patients.methods import METHODS, Answer, Method
from cnr_iemn.patients.nested import Parts, patient_parts
from cnr_iemn.patients.slice_sets import ScanArray, SliceSets
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BOOSTER_METHOD

Floats = NDArray[np.float64]


def study_methods(
    sets: SliceSets,
    scans: pd.DataFrame,
    classes: tuple[str, ...],
    *,
    confirmatory: str = BOOSTER_METHOD,
    repeats: int = 1,
    label: str | None = None,
    sensitivity: float = 0.9,
    seed: int = 0,
    methods: Mapping[str, Method] = METHODS,
) -> dict[str, Any]:
    """Return ``methods``, each one's figures on the validation scans, and ``method_choice``; JSON-ready.

    ``sets``: of training scans one set each. ``scans``: ``Predictions.scans``. ``confirmatory``: the method that was
    declared before the run; the others are exploratory, and compared with it (``declared_against_it``).
    ``within_training``: balanced accuracy on the training scans, each answered by what has learnt from other patients,
    mean over ``repeats`` cuts into parts, with its deviation over them: the figure to choose a method by.
    ``label``, ``sensitivity``: of each method's ``operating_point``, by the first cut; without a label there is none.
    """
    training, validation = scans[scans["split"] == TRAINING], scans[scans["split"] == VALIDATION]
    labels = _indices(training["label"], classes)
    arrays = [sets[scan_id][0] for scan_id in training.index]
    cuts = [parts for k in range(repeats) if (parts := patient_parts(training, seed=seed + k)) is not None]
    truth = validation["label"].tolist()
    found: dict[str, Any] = {}
    correct: dict[str, NDArray[np.bool_]] = {}
    for name, method in methods.items():
        probabilities = answer_sets(method(arrays, labels), sets, validation.index)
        predicted = most_probable(probabilities, classes)
        evaluation = evaluate(truth, predicted, classes)
        correct[name] = np.array(predicted) == np.array(truth)
        within = [answers_within(method, arrays, labels, parts) for parts in cuts]
        point = None
        if label is not None and within:
            indices = _indices(validation["label"], classes)
            point = operating_point(
                within[0], labels, probabilities, indices, classes, label=label, sensitivity=sensitivity
            )
        found[name] = {
            "confirmatory": name == confirmatory,
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], classes),
            **_mean_and_deviation([_balanced_accuracy(labels, each) for each in within]),
            "operating_point": point,
        }
    reference = correct.pop(confirmatory)
    for name, comparison in (
        compare_with(reference, correct) | compare_with(reference, {confirmatory: reference})
    ).items():
        found[name]["declared_against_it"] = comparison
    return {"methods": found, "method_choice": _choice(found, parts=len(cuts[0]) if cuts else 0, repeats=len(cuts))}


def answer_sets(answer: Answer, sets: SliceSets, scan_ids: "pd.Index[str]") -> Floats:
    """Return the mean over each scan's sets of a method's probabilities, float64 [scans, classes]."""
    counts = [len(sets[scan_id]) for scan_id in scan_ids]
    given = answer([array for scan_id in scan_ids for array in sets[scan_id]])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(given, starts, axis=0) / np.array(counts)[:, None])


def answers_within(method: Method, scans: Sequence[ScanArray], labels: NDArray[np.int64], parts: Parts) -> Floats:
    """Return each training scan's probabilities from what has learnt on the other parts, float64 [scans, classes]."""
    answers = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for rest, part in parts:
        answers[part] = method([scans[k] for k in rest], labels[rest])([scans[k] for k in part])
    return answers


def _balanced_accuracy(labels: NDArray[np.int64], answers: Floats) -> float:
    return float(weighted_figures(labels, answers, np.ones((1, len(labels))))["balanced_accuracy"][0])


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "within_training": float(np.mean(values)) if values else None,
        "within_training_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def _choice(found: Mapping[str, Any], *, parts: int, repeats: int) -> dict[str, Any] | None:
    """Return what the training scans would choose, the first of equals; None where they could not be cut."""
    if not repeats:
        return None
    chosen = max(found, key=lambda name: float(found[name]["within_training"]))
    return {"by": "balanced accuracy within the training scans", "parts": parts, "repeats": repeats, "chosen": chosen}


def _indices(labels: "pd.Series[str]", classes: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([classes.index(label) for label in labels], dtype=np.int64)
