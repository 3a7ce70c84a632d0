"""What a booster answers for every scan, and how good the answers for the validation scans are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from cnr_iemn.patients.booster import mean_probabilities, predict_probabilities, train_booster
from cnr_iemn.patients.evaluation import Evaluation, evaluate, most_probable
from cnr_iemn.patients.intervals import patient_bootstrap, proportion_intervals
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.records import TRAINING, VALIDATION, probability_columns


@dataclass(frozen=True)
class Answers:
    """``patients``: one row a scan of the features, index scan_id: patient, split, label, prediction, probabilities.

    Those of training scans are of a booster that has seen them.
    """

    booster: xgboost.Booster
    patients: pd.DataFrame

    @property
    def held_out(self) -> pd.DataFrame:
        """The rows of the validation scans."""
        return self.patients[self.patients["split"] == VALIDATION]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each validation scan is answered rightly."""
        return self.held_out["correct"].to_numpy(dtype=bool)

    def evaluation(self, classes: tuple[str, ...]) -> Evaluation:
        """Return the figures of the validation scans. Raises RunError where there is none."""
        return evaluate(self.held_out["label"].tolist(), self.held_out["predicted"].tolist(), classes)

    def uncertainty(self, classes: tuple[str, ...], *, seed: int) -> dict[str, Any]:
        """Return ``intervals``: Wilson's of accuracy and sensitivities, and ``patient_bootstrap``'s; JSON-ready."""
        held_out = self.held_out
        labels = [classes.index(name) for name in held_out["label"]]
        probabilities = held_out[probability_columns(classes)].to_numpy(dtype=np.float64)
        proportions = proportion_intervals(self.evaluation(classes)["confusion_matrix"], classes)
        resampled = patient_bootstrap(labels, probabilities, held_out["patient_id"].tolist(), seed=seed)
        return {"intervals": {"wilson": proportions, "patient_bootstrap": resampled}}


def train_answers(
    features: Features,
    *,
    scans: pd.DataFrame,
    classes: tuple[str, ...],
    rounds: int,
    max_depth: int,
    eta: float,
    seed: int,
    labels: list[str] | None = None,
) -> Answers:
    """Train a booster on the training scans and have it answer for all.

    ``scans``: ``Predictions.scans`` of the study. ``labels``: of the training scans, in the features' order, in place
    of theirs. The other arguments are those of ``train_booster``.
    """
    labels = scans.loc[features.training.index, "label"].tolist() if labels is None else labels
    booster = train_booster(features.training, labels, classes, rounds=rounds, max_depth=max_depth, eta=eta, seed=seed)
    columns = probability_columns(classes)
    others = features.answering[0].index
    mean = mean_probabilities(booster, features.answering)
    probabilities = pd.concat(
        [
            pd.DataFrame(predict_probabilities(booster, features.training), features.training.index, columns),
            pd.DataFrame(mean, others, columns),
        ]
    )
    known = scans[scans["split"].isin([TRAINING, VALIDATION]) & scans.index.isin(probabilities.index)]
    chosen = probabilities.loc[known.index]
    patients = known[["patient_id", "split", "label"]].assign(predicted=most_probable(chosen.to_numpy(), classes))
    patients[columns] = chosen
    return Answers(booster, patients.assign(correct=patients["predicted"] == patients["label"]))
