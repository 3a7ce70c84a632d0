"""Stage-2 methods on the same predictions and split: validation metrics, and cross-validation on the training scans."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.evaluation.operating_point import OperatingPoint, operating_point
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.calibration import FoldRows, calibration_scans, patient_folds
from cnr_iemn.stage2.methods.base import Method
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray, SliceSets
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.statistics.confidence_intervals import Proportions, proportion_intervals, weighted_metrics
from cnr_iemn.statistics.metrics import Evaluation, evaluate, most_probable
from cnr_iemn.statistics.paired_tests import Comparison, compare_with

Floats = NDArray[np.float64]


class MethodMetrics(Evaluation):
    """One stage-2 method on the validation scans. ``primary``: named before the run; the others are exploratory.

    ``cross_validation``: balanced accuracy on the training scans, mean and deviation over repeats: the column to choose
    a method by. ``comparison``: the primary method against this one.
    """

    primary: bool
    intervals: Proportions
    cross_validation: float | None
    cross_validation_sd: float | None
    operating_point: OperatingPoint | None
    comparison: Comparison


class MethodChoice(TypedDict):
    """The method that cross-validation on the training scans would choose; ``by``: the criterion."""

    by: str
    folds: int
    repeats: int
    method: str


def compare_methods(
    sets: SliceSets,
    scans: pd.DataFrame,
    axes: Axes,
    *,
    unseen: AbstractSet[str] = frozenset(),
    primary: str = BOOSTER_METHOD,
    repeats: int = 1,
    label: str | None = None,
    sensitivity: float = 0.9,
    seed: int = 0,
    methods: Mapping[str, Method] = METHODS,
) -> tuple[dict[str, MethodMetrics], MethodChoice | None]:
    """Return each method's metrics, and the method that cross-validation on the training scans would choose.

    Args:
        sets: Slices of each scan; one set for training scans.
        scans: Patient, split and label, index scan_id.
        axes: Of the slices.
        unseen: ``StudyScans.unseen``, for the operating points.
        primary: The method named before the run.
        repeats: Number of cross-validations.
        label: The class of each method's operating point, from the first cross-validation; None for none.
        sensitivity: The target of the operating point.
        seed: Of the folds and of the methods.
        methods: By name; those are left out that read channels which ``axes`` does not have.
    """
    training, validation = scans[scans["split"] == TRAINING], scans[scans["split"] == VALIDATION]
    classes = axes.classes
    labels, truth = _indices(training["label"], classes), _indices(validation["label"], classes)
    held_out = {str(scan_id): sets[scan_id] for scan_id in validation.index}
    all_channels = [sets[scan_id][0] for scan_id in training.index]
    methods = {name: method for name, method in methods.items() if method.applies_to(axes)}
    splits = [folds for k in range(repeats) if (folds := patient_folds(training, seed=seed + k)) is not None]
    threshold_scans = calibration_scans(training, unseen)
    probabilities: dict[str, Floats] = {}
    balanced: dict[str, list[float]] = {}
    points: dict[str, OperatingPoint | None] = dict.fromkeys(methods)
    for name, method in methods.items():
        inputs = method.input_axes(axes)
        arrays = inputs.read(all_channels)
        probabilities[name] = predict_sets(method.fit(arrays, labels, inputs, seed=seed), held_out)
        cross_validated = [cross_validate(method, arrays, labels, inputs, folds, seed=seed) for folds in splits]
        balanced[name] = [_balanced_accuracy(labels, values) for values in cross_validated]
        if label is not None and splits:
            points[name] = operating_point(
                cross_validated[0],
                labels,
                probabilities[name],
                truth,
                classes,
                scans=threshold_scans,
                label=label,
                sensitivity=sensitivity,
            )
    metrics = _method_metrics(probabilities, validation["label"].tolist(), classes, primary, balanced, points)
    return metrics, _choose_method(balanced, splits) if splits else None


def _choose_method(balanced: Mapping[str, Sequence[float]], splits: Sequence[FoldRows]) -> MethodChoice:
    """Return the method of the highest mean over the cross-validations."""
    best = max(balanced, key=lambda name: float(np.mean(balanced[name])))
    by = "balanced accuracy in cross-validation on the training scans"
    return {"by": by, "folds": len(splits[0]), "repeats": len(splits), "method": best}


def _method_metrics(
    probabilities: Mapping[str, Floats],
    truth: Sequence[str],
    classes: tuple[str, ...],
    primary: str,
    balanced: Mapping[str, Sequence[float]],
    points: Mapping[str, OperatingPoint | None],
) -> dict[str, MethodMetrics]:
    """Return the metrics of each method.

    ``probabilities``: of the validation scans; ``truth``: their classes. ``balanced``: balanced accuracy of each
    cross-validation.
    """
    predicted = {name: most_probable(values, classes) for name, values in probabilities.items()}
    correct = {name: np.array(values) == np.array(truth) for name, values in predicted.items()}
    alternatives = {name: hits for name, hits in correct.items() if name != primary}
    comparisons = compare_with(correct[primary], alternatives)
    comparisons |= compare_with(correct[primary], {primary: correct[primary]})
    scores = {name: evaluate(truth, values, classes) for name, values in predicted.items()}
    return {
        name: {
            "primary": name == primary,
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], classes),
            "cross_validation": float(np.mean(balanced[name])) if balanced[name] else None,
            "cross_validation_sd": float(np.std(balanced[name], ddof=1)) if len(balanced[name]) > 1 else None,
            "operating_point": points[name],
            "comparison": comparisons[name],
        }
        for name, evaluation in scores.items()
    }


def cross_validate(
    method: Method, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, folds: FoldRows, *, seed: int = 0
) -> Floats:
    """Return the probabilities of each training scan from a method fitted on the other folds, [scans, classes]."""
    probabilities = np.full((len(labels), len(axes.classes)), np.nan)
    for rest, fold in folds:
        fitted = method.fit([scans[k] for k in rest], labels[rest], axes, seed=seed)
        probabilities[fold] = fitted.predict_proba([scans[k] for k in fold])
    return probabilities


def _balanced_accuracy(labels: NDArray[np.int64], probabilities: Floats) -> float:
    return float(weighted_metrics(labels, probabilities, np.ones((1, len(labels))))["balanced_accuracy"][0])


def _indices(labels: "pd.Series[str]", classes: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([classes.index(label) for label in labels], dtype=np.int64)
