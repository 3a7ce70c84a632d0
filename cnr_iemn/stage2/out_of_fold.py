"""Features of stage 2: as in the paper, or out of fold.

In the paper, XGBoost is fitted on scans that partly trained the networks, whose predictions on them are over-confident.
Out of fold, each training scan is scored by the network of its own fold, which has not seen it; a new scan is scored by
every fold's networks, and the booster's probabilities, not the features, are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.data.slice_predictions import Predictions, check_joinable, check_same_study
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING
from cnr_iemn.stage2.group_features import group_features

PAPER, OUT_OF_FOLD, FULL_DATA = "paper", "out_of_fold", "out_of_fold_full_data_networks"
"""Feature modes. The last one fits the booster out of fold, but scores new scans with the full-data networks."""

Folds = Mapping[int, Mapping[str, Predictions]]
"""Predictions by fold held out, then by model in ensemble order."""


@dataclass(frozen=True)
class Features:
    """Percentages in groups of slices, one row a scan, index scan_id; all tables have the same columns.

    ``training``: the scans that the booster is fitted on. ``answering``: all other scans, one table for each set of
    networks; a scan's probabilities are the mean over them. ``unseen``: scan_ids of the training scans whose patients
    are new to the networks that score them.
    """

    training: pd.DataFrame
    answering: tuple[pd.DataFrame, ...]
    unseen: frozenset[str] = frozenset()

    def only(self, columns: list[str]) -> "Features":
        """Return these columns."""
        return Features(self.training[columns], tuple(table[columns] for table in self.answering), self.unseen)

    def as_table(self, fold: "pd.Series[int]") -> pd.DataFrame:
        """Return one table: scan_id, fold, features.

        The fold is that of the networks that scored the row, missing where one set of networks scores all scans.
        ``fold``: the fold of each training scan. Other scans have a row for each set of networks.
        """
        table = pd.concat([self.training, *self.answering]).rename_axis("scan_id").reset_index()
        folds: list[int | None] = [None] * len(table)
        if len(self.answering) > 1:
            sets = (k for k, rows in enumerate(self.answering) for _ in range(len(rows)))
            folds = [*fold.loc[self.training.index], *sets]
        table.insert(1, "fold", pd.Series(folds, dtype="Int64"))
        return table


def feature_modes(predictions: Mapping[str, Predictions], folds: Folds | None) -> dict[str, Features]:
    """Return the features of each available mode, the declared mode first.

    Raises RunError where the predictions, or those of the folds, do not fit together.
    """
    paper = paper_features(predictions)
    if folds is None:
        return {PAPER: paper}
    check_folds(predictions, folds)
    out_of_fold = out_of_fold_features(folds)
    return {OUT_OF_FOLD: out_of_fold, PAPER: paper, FULL_DATA: Features(out_of_fold.training, paper.answering)}


def paper_features(predictions: Mapping[str, Predictions]) -> Features:
    """Return the paper's features: one set of networks scores training and new scans (section 2.2)."""
    features = group_features(predictions)
    training = next(iter(predictions.values())).scans["split"] == TRAINING
    return Features(features[training], (features[~training],), _unseen(predictions))


def _unseen(predictions: Mapping[str, Predictions]) -> frozenset[str]:
    """Return the training scans whose patients neither trained a network nor selected its checkpoint."""
    patients: set[str] = set()
    for run in predictions.values():
        patients |= run.seen_patients | set(run.table.loc[run.table["used_for_selection"], "patient_id"])
    scans = next(iter(predictions.values())).scans
    return frozenset(scans.index[(scans["split"] == TRAINING) & ~scans["patient_id"].isin(patients)])


def out_of_fold_features(folds: Folds) -> Features:
    """Return features for which a fold's networks score its training scans, and all folds' networks the other scans.

    ``folds``: must have passed ``check_folds``.
    """
    scans = next(iter(next(iter(folds.values())).values())).scans
    training = scans["split"] == TRAINING
    tables = {fold: group_features(predictions) for fold, predictions in folds.items()}
    of_fold = [table[training & (scans["fold"] == fold)] for fold, table in tables.items()]
    features = pd.concat(of_fold).loc[scans.index[training]]
    return Features(features, tuple(table[~training] for table in tables.values()), frozenset(features.index))


def check_folds(whole: Mapping[str, Predictions], folds: Folds) -> None:
    """Check that no fold's network has seen the scans that it scores, and that all runs belong to one study.

    ``whole``: predictions of the networks that trained on all folds. Raises RunError naming run, scans and remedy.
    """
    first = next(iter(whole.values()))
    for fold, predictions in folds.items():
        check_joinable(predictions)
        for model, run in predictions.items():
            check_same_study(first, run)
            _check_unseen(model, run, fold)
    scans = first.scans
    training = scans[scans["split"] == TRAINING]
    missing = training.index[~training["fold"].isin(list(folds))]
    if len(missing):
        fold = training.loc[missing[0], "fold"]
        raise RunError(
            f"Training scan {missing[0]} (one of {len(missing)}) belongs to fold {fold}, and there are networks for "
            f"the folds {', '.join(map(str, folds))}. Train every fold with one data.folds."
        )


def _check_unseen(model: str, predictions: Predictions, fold: int) -> None:
    tag, scans = predictions.metadata.tag, predictions.scans
    leaked = scans.index[(scans["fold"] == fold) & scans["patient_id"].isin(predictions.seen_patients)]
    if len(leaked):
        raise RunError(
            f"{model}'s run {tag} was trained on {leaked[0]} (one of {len(leaked)}) of fold {fold}, which it must "
            "score, or on another scan of the same patient. Train it again with "
            f"data.fold={fold} (overwrite=true)."
        )
    if predictions.table["used_for_selection"].any():
        raise RunError(
            f"{model}'s run {tag} kept the checkpoint that was best on the validation scans, or stopped by them, and "
            "the networks of a fold must select nothing. Train the folds with trainer.checkpoint=last and without "
            "trainer.early_stopping (overwrite=true)."
        )


ScanArray = NDArray[np.float32]
"""Class probabilities of one scan's slices, head first: float32 [models, n_slices, classes]."""

SliceSets = Mapping[str, tuple[ScanArray, ...]]
"""By scan_id, one array for each set of networks that scores the scan."""


def by_fold(networks: NDArray[np.float32], folds: Sequence[int | None]) -> tuple[ScanArray, ...]:
    """Split one scan's predictions into sets of networks: one set for each fold, or one for all without folds.

    ``networks``: float32 [networks, n_slices, classes]. ``folds``: of each network.
    """
    return tuple(networks[[other == fold for other in folds]] for fold in dict.fromkeys(folds))


def paper_sets(predictions: Mapping[str, Predictions]) -> dict[str, tuple[ScanArray, ...]]:
    """Return each scan's predictions by the only set of networks."""
    return {scan_id: (array,) for scan_id, array in _arrays(predictions).items()}


def out_of_fold_sets(folds: Folds) -> dict[str, tuple[ScanArray, ...]]:
    """Return each training scan's predictions by its own fold's networks, every other scan's by those of each fold.

    ``folds``: must have passed ``check_folds``.
    """
    arrays = {fold: _arrays(predictions) for fold, predictions in folds.items()}
    scans = next(iter(next(iter(folds.values())).values())).scans
    rows = zip(scans.index, scans["split"] == TRAINING, scans["fold"], strict=True)
    return {
        scan_id: tuple(arrays[k][scan_id] for k in ([int(fold)] if in_training else arrays))
        for scan_id, in_training, fold in rows
    }


def _arrays(predictions: Mapping[str, Predictions]) -> dict[str, ScanArray]:
    of_models = []
    for run in predictions.values():
        rows = run.table.reset_index(drop=True).sort_values(["scan_id", "slice_index"])
        probabilities = run.probabilities[rows.index]  # by position
        names, starts = np.unique(rows["scan_id"].to_numpy(dtype=str), return_index=True)
        of_models.append(dict(zip(names.tolist(), np.split(probabilities, starts[1:]), strict=True)))
    return {scan_id: np.stack([model[scan_id] for model in of_models]) for scan_id in of_models[0]}
