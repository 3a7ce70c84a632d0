"""Simple answers that the pipeline must beat, for scans and for slices: each uses one plain measurement.

Scalars and the histogram go through a multinomial logistic regression, the 20 mean HU through the same XGBoost as the
pipeline's features. All learn from training scans and are judged on validation scans.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cnr_iemn.errors import RunError
from cnr_iemn.patients.booster import class_indices, predict_probabilities, train_booster
from cnr_iemn.patients.evaluation import Evaluation, SliceEvaluation, evaluate, most_probable, score
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.patients.summaries import ScanSummary
from cnr_iemn.records import TRAINING, VALIDATION

MAJORITY = "majority class"

_SCALARS: dict[str, tuple[str, ...]] = {
    "lung litres": ("litres",),
    "mean HU in the lungs": ("mean_hu",),
    "laterality": ("dense_left", "dense_asymmetry"),
    "lesion volume by threshold": ("dense_share",),
}


def patient_baselines(
    summaries: Mapping[str, ScanSummary],
    labels: Mapping[str, str],
    split: Mapping[str, str],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Evaluation]:
    """Return the validation figures of every baseline of scans, by its name (see ``baseline_answers``).

    Raises RunError where a class has no training scan or nothing is held out.
    """
    test_labels = [labels[scan_id] for scan_id in labels if split[scan_id] == VALIDATION]
    answers = baseline_answers(summaries, labels, split, classes, seed=seed)
    return {title: evaluate(test_labels, predicted, classes) for title, predicted in answers.items()}


def baseline_answers(
    summaries: Mapping[str, ScanSummary],
    labels: Mapping[str, str],
    split: Mapping[str, str],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Return the class that every baseline gives each validation scan, in the order of ``labels``, by its name.

    ``summaries``, ``labels``, ``split``: by scan_id, for all scans of the cohort. ``seed``: of XGBoost. Missing
    measurements (an empty lung mask) take the training median, for XGBoost they stay missing. Raises RunError where a
    class has no training scan.
    """
    train = [scan_id for scan_id in labels if split[scan_id] == TRAINING]
    test = [scan_id for scan_id in labels if split[scan_id] == VALIDATION]
    train_labels = [labels[each] for each in train]
    class_indices(train_labels, classes)

    def values(names: Sequence[str], scans: Sequence[str]) -> NDArray[np.float64]:
        return np.array([np.hstack([getattr(summaries[each], name) for name in names]) for each in scans])

    predicted = {MAJORITY: [_majority(train_labels, classes)] * len(test)}
    if test:  # else there is nobody to answer for, and `evaluate` says so
        for title, names in _SCALARS.items():
            predicted[title] = _regress(values(names, train), train_labels, values(names, test), quadratic=True)
        histograms = values(["histogram"], train), values(["histogram"], test)
        predicted["HU histogram"] = _regress(histograms[0], train_labels, histograms[1], quadratic=False)
        groups = [pd.DataFrame(values(["group_mean_hu"], scans)).add_prefix("mean_hu/g") for scans in (train, test)]
        booster = train_booster(groups[0], train_labels, classes, seed=seed)
        predicted["XGBoost on mean HU in 20 groups"] = most_probable(predict_probabilities(booster, groups[1]), classes)
    return predicted


def slice_baselines(predictions: Predictions, summaries: Mapping[str, ScanSummary]) -> dict[str, SliceEvaluation]:
    """Return the figures of the slice baselines on the labelled validation slices, by name.

    They learn from the labelled training slices: the majority class, the slice's position (i + 0.5) / n alone, and its
    lung area (share of the image) alone. ``predictions``: of any model, for the slices' labels and split only.
    Raises RunError where no training slice carries a label; figures are None where no validation slice does.
    """
    classes = predictions.metadata.classes
    table = predictions.table[predictions.table["slice_label"].notna()]
    rows = zip(table["scan_id"], table["slice_index"], strict=True)
    measured = {
        "position alone": ((table["slice_index"] + 0.5) / table["n_slices"]).to_numpy(dtype=np.float64),
        "lung area alone": np.array([summaries[scan_id].slice_area[index] for scan_id, index in rows]),
    }
    labels = table["slice_label"].to_numpy(dtype=object)
    train, test = ((table["split"] == name).to_numpy(dtype=bool) for name in (TRAINING, VALIDATION))
    if not train.any():
        raise RunError(
            "No training slice carries a label, so the slice baselines have nothing to learn from. Give the cohort "
            "slice labels, or use another split (data.split.seed)."
        )
    predicted = {MAJORITY: [_majority(labels[train].tolist(), classes)] * int(test.sum())}
    for title, values in measured.items():
        column = values[:, None]
        predicted[title] = _regress(column[train], labels[train].tolist(), column[test], quadratic=True)
    test_labels = labels[test].tolist()
    figures = {title: score(test_labels, answers, classes) for title, answers in predicted.items()}
    return {title: {**scores, "n_slices": len(test_labels)} for title, scores in figures.items()}


def _majority(labels: Sequence[str], classes: Sequence[str]) -> str:
    """Return the most frequent class, the first in class order among equals."""
    counts = Counter(labels)
    return max(classes, key=lambda name: counts[name])


def _regress(
    train: NDArray[np.float64], labels: Sequence[str], test: NDArray[np.float64], *, quadratic: bool
) -> list[str]:
    """Return the classes that a multinomial logistic regression, learnt on ``train``, gives the rows of ``test``."""
    if len(test) == 0 or len(set(labels)) == 1:
        return [labels[0]] * len(test)
    squares = [PolynomialFeatures(degree=2, include_bias=False), StandardScaler()] if quadratic else []
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        *squares,
        LogisticRegression(C=100.0 if quadratic else 1.0, max_iter=5000),  # a handful of terms needs little shrinkage
    )
    return [str(name) for name in model.fit(train, labels).predict(test)]
