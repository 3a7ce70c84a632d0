"""The slices of each scan as every set of networks sees them: what methods other than the paper's start from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.patients.out_of_fold import Folds
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.records import TRAINING

ScanArray = NDArray[np.float32]
"""Class probabilities of one scan's slices, head first: float32 [models, n_slices, classes]."""

SliceSets = Mapping[str, tuple[ScanArray, ...]]
"""By scan_id, one array for each set of networks that scores the scan."""


def by_fold(networks: NDArray[np.float32], folds: Sequence[int | None]) -> tuple[ScanArray, ...]:
    """Return one scan as each set of networks sees it: those of one fold, or all where there are no folds.

    ``networks``: float32 [networks, n_slices, classes]. ``folds``: of each network.
    """
    return tuple(networks[[each == fold for each in folds]] for fold in dict.fromkeys(folds))


def paper_sets(predictions: Mapping[str, Predictions]) -> dict[str, tuple[ScanArray, ...]]:
    """Return each scan as the one set of networks sees it."""
    return {scan_id: (array,) for scan_id, array in _arrays(predictions).items()}


def out_of_fold_sets(folds: Folds) -> dict[str, tuple[ScanArray, ...]]:
    """Return each training scan as its own fold's networks see it, every other scan as those of each fold do.

    ``folds``: must have passed ``out_of_fold.check_folds``.
    """
    arrays = {fold: _arrays(predictions) for fold, predictions in folds.items()}
    scans = next(iter(next(iter(folds.values())).values())).scans
    own = zip(scans.index, scans["split"] == TRAINING, scans["fold"], strict=True)
    return {
        scan_id: (arrays[int(fold)][scan_id],) if trains else tuple(each[scan_id] for each in arrays.values())
        for scan_id, trains, fold in own
    }


def _arrays(predictions: Mapping[str, Predictions]) -> dict[str, ScanArray]:
    of_models = []
    for each in predictions.values():
        ordered = each.table.reset_index(drop=True).sort_values(["scan_id", "slice_index"])
        probabilities = each.probabilities[ordered.index]  # by position
        names, starts = np.unique(ordered["scan_id"].to_numpy(dtype=str), return_index=True)
        of_models.append(dict(zip(names.tolist(), np.split(probabilities, starts[1:]), strict=True)))
    return {scan_id: np.stack([model[scan_id] for model in of_models]) for scan_id in of_models[0]}
