"""Baselines for scans and slices, each on one simple measurement.

Scalars and the histogram go through a multinomial logistic regression, the 20 mean HU through the same XGBoost as the
pipeline's features. All are fitted on training scans and scored on validation scans.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cnr_iemn.constants import INPUT_WINDOW, N_GROUPS
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.booster import class_indices, predict_probabilities, train_booster
from cnr_iemn.statistics.metrics import SliceEvaluation, most_probable, score

MAJORITY = "majority class"

_SCALARS: dict[str, tuple[str, ...]] = {
    "lung litres": ("litres",),
    "mean HU in the lungs": ("mean_hu",),
    "laterality": ("dense_left", "dense_asymmetry"),
    "lesion volume by threshold": ("dense_share",),
}
HISTOGRAM_EDGES = np.arange(-1000.0, 401.0, 50.0)
"""Edges of the 28 bins of the HU histogram."""
DENSE_HU = -700.0
"""Lung above this HU counts as dense: healthy parenchyma lies near -860 HU, ground glass near -450."""


@dataclass(frozen=True)
class ScanSummary:
    """Measurements within one scan's lung mask; NaN where the measured region is empty.

    ``litres``: lung volume. ``mean_hu``: HU. ``histogram``: shares of lung in 50 HU bins from -1000 to 400, float64
    [28], sum 1. ``dense_share``: share of lung above -700 HU (0 to 1). ``dense_left``: share of that dense lung in the
    half with the higher columns, the patient's left in axial images. ``group_mean_hu``: mean HU in each of 20 groups
    of slices, float64 [20]. ``slice_area``: share of each image that is lung, float64 [n_slices].
    """

    litres: float
    mean_hu: float
    histogram: NDArray[np.float64]
    dense_share: float
    dense_left: float
    group_mean_hu: NDArray[np.float64]
    slice_area: NDArray[np.float64]

    @property
    def dense_asymmetry(self) -> float:
        """Absolute difference of the left and right shares of dense lung, 0 (even) to 1 (one side only)."""
        return abs(2.0 * self.dense_left - 1.0)


def summarise_scan(
    grey: NDArray[np.uint8],
    lungs: NDArray[np.uint8] | NDArray[np.bool_],
    *,
    litres: float,
    window: tuple[float, float] = INPUT_WINDOW,
) -> ScanSummary:
    """Measure one scan of the slice store.

    ``grey``: uint8 [n_slices, rows, columns], head first. ``lungs``: mask of that shape, 0 or 1. ``litres``: lung
    volume in the store. ``window``: HU at grey 0 and 255; it turns grey back to HU (to within 3 HU, clipped to the
    window). The middle between the mask's first and last column divides left from right.
    """
    low, high = window
    hu = low + np.arange(256) * (high - low) / 255.0
    middle = _middle_column(lungs)
    counts = np.zeros((len(grey), 2, 256), dtype=np.int64)  # voxels by slice, side and grey level
    halves = slice(middle), slice(middle, None)
    for index, (image, mask) in enumerate(zip(grey, lungs, strict=True)):
        inside = np.asarray(mask, dtype=bool)
        for side, columns in enumerate(halves):
            counts[index, side] = np.bincount(image[:, columns][inside[:, columns]], minlength=256)
    by_slice = counts.sum(axis=1)
    levels = by_slice.sum(axis=0)
    dense = counts[:, :, hu > DENSE_HU].sum(axis=(0, 2))
    group = assign_slice_groups(len(grey), N_GROUPS)
    groups = np.array([by_slice[group == k].sum(axis=0) for k in range(N_GROUPS)])
    histogram, _ = np.histogram(np.clip(hu, HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]), HISTOGRAM_EDGES, weights=levels)
    return ScanSummary(
        litres=litres,
        mean_hu=float(_ratio(levels @ hu, levels.sum())),
        histogram=_ratio(histogram, levels.sum()),
        dense_share=float(_ratio(dense.sum(), levels.sum())),
        dense_left=float(_ratio(dense[1], dense.sum())),
        group_mean_hu=_ratio(groups @ hu, groups.sum(axis=1)),
        slice_area=by_slice.sum(axis=1) / float(grey.shape[1] * grey.shape[2]),
    )


def summarise_store(store: SliceStore, scan_ids: Iterable[str]) -> dict[str, ScanSummary]:
    """Return the measurements of stored scans, by scan_id."""
    return {
        scan_id: summarise_scan(
            store.grey(scan_id),
            store.lungs(scan_id)[:],
            litres=store.scan(scan_id).lung_litres,
            window=store.settings.window,
        )
        for scan_id in scan_ids
    }


def _middle_column(lungs: NDArray[np.uint8] | NDArray[np.bool_]) -> int:
    """Return the first column of the half with the higher ones."""
    columns = np.flatnonzero(np.any(lungs, axis=(0, 1)))
    return math.ceil((columns[0] + columns[-1]) / 2) if len(columns) else 0


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; the result is NaN where the denominator is 0."""
    return np.asarray(numerator, dtype=np.float64) / np.where(np.asarray(denominator) > 0, denominator, np.nan)


def baseline_predictions(
    summaries: Mapping[str, ScanSummary],
    labels: Mapping[str, str],
    split: Mapping[str, str],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Return each baseline's predicted classes of the validation scans, by name, in the order of ``labels``.

    ``summaries``, ``labels``, ``split``: by scan_id, for all scans of the cohort. ``seed``: of XGBoost. Missing
    measurements (an empty lung mask) take the training median, for XGBoost they stay missing. Raises RunError where a
    class has no training scan.
    """
    train = [scan_id for scan_id in labels if split[scan_id] == TRAINING]
    test = [scan_id for scan_id in labels if split[scan_id] == VALIDATION]
    train_labels = [labels[scan_id] for scan_id in train]
    class_indices(train_labels, classes)

    def values(names: Sequence[str], scans: Sequence[str]) -> NDArray[np.float64]:
        return np.array([np.hstack([getattr(summaries[scan_id], name) for name in names]) for scan_id in scans])

    predictions = {MAJORITY: [_majority(train_labels, classes)] * len(test)}
    if test:  # without validation scans `evaluate` raises
        for title, names in _SCALARS.items():
            predictions[title] = _regress(values(names, train), train_labels, values(names, test), quadratic=True)
        histograms = values(["histogram"], train), values(["histogram"], test)
        predictions["HU histogram"] = _regress(histograms[0], train_labels, histograms[1], quadratic=False)
        groups = [pd.DataFrame(values(["group_mean_hu"], scans)).add_prefix("mean_hu/g") for scans in (train, test)]
        booster = train_booster(groups[0], train_labels, classes, seed=seed)
        predictions["XGBoost on mean HU in 20 groups"] = most_probable(
            predict_probabilities(booster, groups[1]), classes
        )
    return predictions


def slice_baselines(predictions: Predictions, summaries: Mapping[str, ScanSummary]) -> dict[str, SliceEvaluation]:
    """Return the metrics of the slice baselines on the labelled validation slices, by name.

    The baselines are fitted on the labelled training slices: the majority class, the slice's position (i + 0.5) / n
    alone, and its lung area (share of the image) alone. ``predictions``: of any model, for the slices' labels and
    split. Raises RunError where no training slice has a label; metrics are None where no validation slice has one.
    """
    classes = predictions.metadata.classes
    table = predictions.table[predictions.table["slice_label"].notna()]
    rows = zip(table["scan_id"], table["slice_index"], strict=True)
    measurements = {
        "position alone": ((table["slice_index"] + 0.5) / table["n_slices"]).to_numpy(dtype=np.float64),
        "lung area alone": np.array([summaries[scan_id].slice_area[index] for scan_id, index in rows]),
    }
    labels = table["slice_label"].to_numpy(dtype=object)
    train, test = ((table["split"] == name).to_numpy(dtype=bool) for name in (TRAINING, VALIDATION))
    if not train.any():
        raise RunError(
            "No training slice has a label, so the slice baselines cannot be fitted. Give the cohort "
            "slice labels, or use another split (data.split.seed)."
        )
    predicted_labels = {MAJORITY: [_majority(labels[train].tolist(), classes)] * int(test.sum())}
    for title, values in measurements.items():
        column = values[:, None]
        predicted_labels[title] = _regress(column[train], labels[train].tolist(), column[test], quadratic=True)
    test_labels = labels[test].tolist()
    metrics = {title: score(test_labels, names, classes) for title, names in predicted_labels.items()}
    return {title: {**scores, "n_slices": len(test_labels)} for title, scores in metrics.items()}


def _majority(labels: Sequence[str], classes: Sequence[str]) -> str:
    """Return the most frequent class; of equals the first in class order."""
    counts = Counter(labels)
    return max(classes, key=lambda name: counts[name])


def _regress(
    train: NDArray[np.float64], labels: Sequence[str], test: NDArray[np.float64], *, quadratic: bool
) -> list[str]:
    """Fit a multinomial logistic regression on ``train`` and return the predicted classes of the rows of ``test``."""
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
