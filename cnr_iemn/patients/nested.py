"""What the booster says of training scans that it has not learnt from: the basis of temperature and threshold."""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cnr_iemn.patients.answers import Answers
from cnr_iemn.patients.calibration import Calibration, measure_calibration, temperature_of, with_temperature
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.patients.undecided import Undecided, measure_undecided, threshold_for
from cnr_iemn.records import probability_columns

Parts = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Rows of the rest and rows of the part, for each part."""
_PARTS = 5


class CalibrationEvidence(TypedDict):
    """``temperature`` and ``learnt_on`` (scans); the validation scans before and after it; ``undecided`` after it."""

    temperature: float
    learnt_on: int
    before: Calibration
    after: Calibration
    undecided: Undecided


def calibration_evidence(
    nested: NDArray[np.float64],
    training_truth: NDArray[np.int64],
    told: NDArray[np.float64],
    truth: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    share: float,
    seed: int,
) -> CalibrationEvidence:
    """Learn temperature and threshold on the training scans, and measure both on the validation scans.

    ``nested``: of ``nested_probabilities``; ``told``: of the validation scans, float64 [scans, classes];
    ``training_truth``, ``truth``: class indices. ``share``: of the training scans that the threshold answers, 0 to 1.
    """
    temperature = temperature_of(nested, training_truth)
    threshold = threshold_for(with_temperature(nested, temperature).max(axis=1), share)
    calibrated = with_temperature(told, temperature)
    return {
        "temperature": temperature,
        "learnt_on": len(training_truth),
        "before": measure_calibration(told, truth, classes, seed=seed),
        "after": measure_calibration(calibrated, truth, classes, seed=seed),
        "undecided": measure_undecided(calibrated, truth, classes, threshold=threshold, wanted_share=share),
    }


def nested_probabilities(
    features: Features,
    training: pd.DataFrame,
    classes: tuple[str, ...],
    learn: Callable[[Features], Answers],
    *,
    seed: int,
) -> NDArray[np.float64] | None:
    """Return each training scan's probabilities from a booster that learnt from other patients, [scans, classes].

    ``training``: patient_id and label of the scans, in the features' order. None as of ``patient_parts``.
    """
    parts = patient_parts(training, seed=seed)
    if parts is None:
        return None
    found = np.full((len(training), len(classes)), np.nan)
    table = features.training
    for rest, part in parts:
        answers = learn(Features(table.iloc[rest], (table.iloc[part],)))
        found[part] = answers.patients.loc[table.index[part], probability_columns(classes)].to_numpy(dtype=np.float64)
    return found


def patient_parts(training: pd.DataFrame, *, seed: int) -> Parts | None:
    """Return five parts by patient, stratified by class: rows of the rest, rows of the part.

    ``training``: patient_id and label of the scans. None where a class has a single patient.
    """
    parts = min(_PARTS, int(training.groupby("label")["patient_id"].nunique().min()))
    if parts < 2:
        return None
    cut = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return list(cut.split(training, training["label"], training["patient_id"]))
