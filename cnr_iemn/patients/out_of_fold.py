"""What the booster learns from and what it answers for: features of scans, as the paper has them or out of fold.

The paper's stage 2 learns from scans of which some have trained the networks, and networks are surer of those than of
new ones. Out of fold, each training scan is scored by the network of its own fold, which has not seen it; a new scan is
scored by every fold's networks, and the booster's answers, not the features, are averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from cnr_iemn.errors import RunError
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.patients.predictions import Predictions, check_joinable, check_same_study
from cnr_iemn.records import TRAINING

PAPER, OUT_OF_FOLD, FULL_DATA = "paper", "out_of_fold", "out_of_fold_full_data_networks"
"""Ways to make the booster's features; the last learns out of fold, but new scans are scored by full-data networks."""

Folds = Mapping[int, Mapping[str, Predictions]]
"""Predictions by fold held out, then by model in ensemble order."""


@dataclass(frozen=True)
class Features:
    """Percentages in groups of slices, one row a scan, index scan_id; all tables have the same columns.

    ``training``: of the scans that the booster learns from. ``answering``: of all other scans, one table for each set
    of networks; a scan's probabilities are the mean over them.
    """

    training: pd.DataFrame
    answering: tuple[pd.DataFrame, ...]

    def only(self, columns: list[str]) -> "Features":
        """Return these columns."""
        return Features(self.training[columns], tuple(table[columns] for table in self.answering))

    def as_table(self, fold: "pd.Series[int]") -> pd.DataFrame:
        """Return one table: scan_id, fold (whose networks scored it: missing where one set scores all), features.

        ``fold``: of each training scan. Other scans have a row for each set of networks.
        """
        several = len(self.answering) > 1
        own = fold.loc[self.training.index].tolist()
        scored_by: list[int | None] = [*own, *(k for k, table in enumerate(self.answering) for _ in range(len(table)))]
        joined = pd.concat([self.training, *self.answering]).rename_axis("scan_id").reset_index()
        scored_by = scored_by if several else [None] * len(joined)
        joined.insert(1, "fold", pd.Series(scored_by, dtype="Int64"))
        return joined


def ways_to_features(predictions: Mapping[str, Predictions], folds: Folds | None) -> dict[str, Features]:
    """Return the features of each way there is, the declared one first; out of fold stands beside the paper's.

    Raises RunError where the predictions, or those of the folds, do not fit together.
    """
    paper = paper_features(predictions)
    if folds is None:
        return {PAPER: paper}
    check_folds(predictions, folds)
    out_of_fold = out_of_fold_features(folds)
    return {OUT_OF_FOLD: out_of_fold, PAPER: paper, FULL_DATA: Features(out_of_fold.training, paper.answering)}


def paper_features(predictions: Mapping[str, Predictions]) -> Features:
    """Return the paper's: training and new scans scored by one set of networks (section 2.2)."""
    features = group_features(predictions)
    training = next(iter(predictions.values())).scans["split"] == TRAINING
    return Features(features[training], (features[~training],))


def out_of_fold_features(folds: Folds) -> Features:
    """Return each training scan scored by its own fold's networks, every other scan by those of every fold.

    ``folds``: must have passed ``check_folds``.
    """
    scans = next(iter(next(iter(folds.values())).values())).scans
    training = scans["split"] == TRAINING
    tables = {fold: group_features(predictions) for fold, predictions in folds.items()}
    of_fold = [table[training & (scans["fold"] == fold)] for fold, table in tables.items()]
    learnt = pd.concat(of_fold).loc[scans.index[training]]
    return Features(learnt, tuple(table[~training] for table in tables.values()))


def check_folds(whole: Mapping[str, Predictions], folds: Folds) -> None:
    """Check that no fold's network has seen what it answers for, and that all belong to one study.

    ``whole``: of the networks that trained on all folds. Raises RunError naming run, scans and remedy.
    """
    first = next(iter(whole.values()))
    for fold, predictions in folds.items():
        check_joinable(predictions)
        for model, each in predictions.items():
            check_same_study(first, each)
            _check_unseen(model, each, fold)
    scans = first.scans
    training = scans[scans["split"] == TRAINING]
    homeless = training.index[~training["fold"].isin(list(folds))]
    if len(homeless):
        fold = training.loc[homeless[0], "fold"]
        raise RunError(
            f"Training scan {homeless[0]} (one of {len(homeless)}) belongs to fold {fold}, and there are networks for "
            f"the folds {', '.join(map(str, folds))}. Train every fold with one data.folds."
        )


def _check_unseen(model: str, predictions: Predictions, fold: int) -> None:
    tag, scans = predictions.metadata.tag, predictions.scans
    leaked = scans.index[(scans["fold"] == fold) & scans["patient_id"].isin(predictions.seen_patients)]
    if len(leaked):
        raise RunError(
            f"{model}'s run {tag} was trained on {leaked[0]} (one of {len(leaked)}) of fold {fold}, which it is to "
            "answer for, or on another scan of the same patient. Train it again with "
            f"data.fold={fold} (overwrite=true)."
        )
    if predictions.table["used_for_selection"].any():
        raise RunError(
            f"{model}'s run {tag} kept the checkpoint that was best on the validation scans, or stopped by them: what "
            "is out of fold must have selected nothing. Train the folds with trainer.checkpoint=last and without "
            "trainer.early_stopping (overwrite=true)."
        )
