"""The booster's predictions of all scans, and their metrics on the validation scans."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from cnr_iemn.schemas import TRAINING, VALIDATION, probability_columns
from cnr_iemn.stage2.booster import mean_probabilities, predict_probabilities, train_booster
from cnr_iemn.stage2.out_of_fold import Features
from cnr_iemn.statistics.metrics import Evaluation, evaluate, most_probable


@dataclass(frozen=True)
class ScanPredictions:
    """A booster and its predictions; it was fitted on the training scans among them.

    ``patients``: one row a scan, index scan_id: patient_id, split, label, predicted, ``p_<class>``, correct.
    """

    booster: xgboost.Booster
    patients: pd.DataFrame

    @property
    def held_out(self) -> pd.DataFrame:
        """The rows of the validation scans."""
        return self.patients[self.patients["split"] == VALIDATION]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each validation scan is predicted correctly, bool [scans]."""
        return self.held_out["correct"].to_numpy(dtype=bool)

    def evaluation(self, classes: tuple[str, ...]) -> Evaluation:
        """Return the metrics of the validation scans. Raises RunError where there is none."""
        return evaluate(self.held_out["label"].tolist(), self.held_out["predicted"].tolist(), classes)


def train_and_predict(
    features: Features,
    *,
    scans: pd.DataFrame,
    classes: tuple[str, ...],
    rounds: int,
    max_depth: int,
    eta: float,
    seed: int,
    labels: list[str] | None = None,
) -> ScanPredictions:
    """Train a booster on the training scans and predict all scans.

    ``scans``: ``Predictions.scans`` of the study. ``labels``: replace those of the training scans, in the features'
    order. The other arguments are those of ``train_booster``.
    """
    labels = scans.loc[features.training.index, "label"].tolist() if labels is None else labels
    booster = train_booster(features.training, labels, classes, rounds=rounds, max_depth=max_depth, eta=eta, seed=seed)
    columns = probability_columns(classes)
    new = features.answering
    probabilities = pd.concat(
        [
            pd.DataFrame(predict_probabilities(booster, features.training), features.training.index, columns),
            pd.DataFrame(mean_probabilities(booster, new), new[0].index, columns),
        ]
    )
    rows = scans[scans["split"].isin([TRAINING, VALIDATION]) & scans.index.isin(probabilities.index)]
    probabilities = probabilities.loc[rows.index]
    patients = rows[["patient_id", "split", "label"]].assign(predicted=most_probable(probabilities.to_numpy(), classes))
    patients[columns] = probabilities
    return ScanPredictions(booster, patients.assign(correct=patients["predicted"] == patients["label"]))
