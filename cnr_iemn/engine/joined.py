"""The finished runs that stage 2 joins, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.cohort.twins import require_distinct
from cnr_iemn.engine.runs import RunFolder, finished_runs, fold_runs
from cnr_iemn.patients.out_of_fold import OUT_OF_FOLD, Features, Folds, ways_to_features
from cnr_iemn.patients.predictions import Predictions, check_joinable, read_predictions
from cnr_iemn.records import TRAINING


@dataclass(frozen=True)
class JoinedRuns:
    """Runs of one tag with their predictions, by model in ensemble order.

    ``folds``: out of fold, the same of the networks of each fold, by the fold that they hold out.
    """

    runs: Mapping[str, RunFolder]
    predictions: Mapping[str, Predictions]
    folds: Mapping[int, tuple[Mapping[str, RunFolder], Mapping[str, Predictions]]] | None = None

    @property
    def fold_predictions(self) -> Folds | None:
        """The predictions of ``folds`` alone."""
        return None if self.folds is None else {fold: made for fold, (_, made) in self.folds.items()}

    @property
    def declared_features(self) -> Features:
        """The booster's features in the declared way. Raises RunError where the predictions do not fit together."""
        return next(iter(ways_to_features(self.predictions, self.fold_predictions).values()))

    @property
    def scans(self) -> pd.DataFrame:
        """``Predictions.scans``, which all runs share."""
        return next(iter(self.predictions.values())).scans

    @property
    def training_labels(self) -> dict[str, str]:
        """The scans that stage 2 learns from, and their classes."""
        labels = self.scans[self.scans["split"] == TRAINING]["label"]
        return {str(scan_id): str(label) for scan_id, label in labels.items()}

    def require_distinct_scans(self, store: SliceStore) -> None:
        """Raise CohortError where two scans with the same pixels lie on two sides of the split, or in two folds."""
        sides = self.scans["split"]
        if self.folds is not None:
            sides = sides.str.cat(self.scans["fold"].astype("string"), " fold ", "-")
        require_distinct(store, dict(zip(self.scans.index, sides, strict=True)))

    @property
    def all_runs(self) -> tuple[RunFolder, ...]:
        """Those of the tag, then those of the folds."""
        of_folds = [run for those, _ in (self.folds or {}).values() for run in those.values()]
        return (*self.runs.values(), *of_folds)


def join_runs(runs: Path, study: str, models: tuple[str, ...], tag: str, *, features: str) -> JoinedRuns:
    """Read the runs of a tag, and those of its folds where ``features`` is out_of_fold.

    Raises RunError where one is missing or they cannot be joined.
    """
    whole = finished_runs(runs, study, models, tag)
    predictions = _read(whole)
    check_joinable(predictions)
    if features != OUT_OF_FOLD:
        return JoinedRuns(whole, predictions)
    folds = {fold: (those, _read(those)) for fold, those in fold_runs(runs, study, models, tag, whole).items()}
    return JoinedRuns(whole, predictions, folds)


def _read(runs: Mapping[str, RunFolder]) -> dict[str, Predictions]:
    return {model: read_predictions(run.predictions) for model, run in runs.items()}
