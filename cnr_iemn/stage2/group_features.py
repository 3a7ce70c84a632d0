"""Group percentages of predicted classes: the features of stage 2 (paper, section 2.2)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.data.predictions.slice_predictions import Predictions, check_joinable
from cnr_iemn.errors import RunError


def group_percentages(
    predicted: NDArray[np.integer], *, n_classes: int, n_groups: int = N_GROUPS
) -> NDArray[np.float64]:
    """Return the percentage of each predicted class in each group of slices, float64 [n_groups, n_classes], 0 to 100.

    ``predicted``: class index of every slice, head first, int [n_slices]. Slice i of n belongs to group
    floor(n_groups * i / n). The row of a group without a slice (n_slices < n_groups) is NaN, not zero.
    """
    group = assign_slice_groups(len(predicted), n_groups)
    counts = np.bincount(group * n_classes + predicted, minlength=n_groups * n_classes).reshape(n_groups, n_classes)
    sizes = counts.sum(axis=1, keepdims=True)
    return 100.0 * counts / np.where(sizes > 0, sizes, np.nan)


def percentages(scan: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the features of one scan, model after model, in the order of their ``feature_columns``.

    ``scan``: class probabilities of its slices, head first, float32 [models, n_slices, classes].
    """
    n_classes = scan.shape[2]
    predicted = scan.argmax(axis=2)
    return np.concatenate([group_percentages(model, n_classes=n_classes).ravel() for model in predicted])


def features_of_sets(
    sets: Mapping[str, Sequence[NDArray[np.float32]]], models: Sequence[str], classes: Sequence[str]
) -> tuple[pd.DataFrame, ...]:
    """Return the features of scans from each set of networks, percent, one row a scan.

    ``sets``: by scan_id, as ``SliceSets``; the same number for all scans. ``models``: of each array, in its order.
    """
    columns = [name for model in models for name in feature_columns(model, classes)]
    by_scan = [[percentages(array) for array in arrays] for arrays in sets.values()]
    return tuple(pd.DataFrame(rows, list(sets), columns) for rows in zip(*by_scan, strict=True))


def feature_columns(model: str, classes: Sequence[str], *, n_groups: int = N_GROUPS) -> list[str]:
    """Return one model's feature names, ``<model>/g<group>/<class>``, by group, then by class."""
    return [f"{model}/g{group:02d}/{name}" for group in range(n_groups) for name in classes]


def group_features(predictions: Mapping[str, Predictions], *, n_groups: int = N_GROUPS) -> pd.DataFrame:
    """Return the joined features of all models, float64 percent, one row a scan, index scan_id.

    Columns are those of ``feature_columns``, model after model in the order of the mapping: 20 x 3 = 60 for each
    backbone of the paper, 240 for its four. A slice counts for its most probable class. Rows are in the order of the
    first model. Raises RunError where the predictions do not fit together (``check_joinable``) or every scan has one
    slice.
    """
    check_joinable(predictions)
    check_several_slices(predictions)
    features = [_model_features(name, run, n_groups) for name, run in predictions.items()]
    return pd.concat([table.loc[features[0].index] for table in features], axis=1)


def check_several_slices(predictions: Mapping[str, Predictions]) -> None:
    """Raise RunError where every scan has one slice."""
    if all((run.table["n_slices"] == 1).all() for run in predictions.values()):
        raise RunError(
            "Every scan of this study has one slice, and percentages in groups of slices need several: there is "
            "nothing to aggregate. The metrics of the slices are in metrics.json of each run."
        )


def _model_features(model: str, predictions: Predictions, n_groups: int) -> pd.DataFrame:
    classes = predictions.metadata.classes
    slices = predictions.table[["scan_id", "slice_index"]].assign(predicted=predictions.probabilities.argmax(axis=1))
    rows = {
        scan_id: group_percentages(scan["predicted"].to_numpy(), n_classes=len(classes), n_groups=n_groups).ravel()
        for scan_id, scan in slices.sort_values("slice_index").groupby("scan_id", sort=False)
    }
    features = pd.DataFrame.from_dict(rows, orient="index", columns=feature_columns(model, classes, n_groups=n_groups))
    return features.loc[predictions.scans.index]
