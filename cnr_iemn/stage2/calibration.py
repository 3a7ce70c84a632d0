"""Temperature and abstention threshold, fitted on cross-validated probabilities of training scans."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.model_selection import StratifiedGroupKFold

from cnr_iemn.schemas import TRAINING, calibrated_columns, probability_columns
from cnr_iemn.stage2.abstention import Undecided, measure_undecided, threshold_for
from cnr_iemn.stage2.calibration_metrics import Calibration, measure_calibration, temperature_of, with_temperature
from cnr_iemn.stage2.out_of_fold import StudyScans
from cnr_iemn.stage2.scan_predictions import ScanPredictions

ENOUGH = 20
"""Scans of each class: with fewer, a share of 90% is uncertain by more than 13 percentage points."""


@dataclass(frozen=True)
class CalibrationScans:
    """The training scans that temperature and thresholds are fitted on.

    ``rows``: mask of the training scans, bool [training scans] in their order. ``weights``: of the scans in
    the mask, float64, mean 1; they restore the class shares of all training scans. ``optimistic``: some of the scans
    trained the networks that score them, so that the fit flatters new scans.
    """

    rows: NDArray[np.bool_]
    weights: NDArray[np.float64]
    optimistic: bool


def calibration_scans(training: pd.DataFrame, unseen: AbstractSet[str]) -> CalibrationScans:
    """Select the scans that are new to the networks that score them, or all scans where those are too few.

    Args:
        training: Label of each training scan, index scan_id.
        unseen: ``StudyScans.unseen``; out of fold, all training scans.

    Returns:
        The unseen scans where they are all training scans, or at least ``ENOUGH`` of each class; else all.
    """
    rows = training.index.isin(list(unseen))
    counts = training["label"].value_counts()
    unseen_counts = training["label"][rows].value_counts().reindex(counts.index, fill_value=0)
    if not rows.all() and unseen_counts.min() < ENOUGH:
        return CalibrationScans(np.ones(len(training), dtype=bool), np.ones(len(training)), optimistic=True)
    weights = training["label"][rows].map(counts / unseen_counts).to_numpy(dtype=np.float64)
    return CalibrationScans(rows, weights / weights.mean(), optimistic=False)


Floats = NDArray[np.float64]


class CalibrationEvidence(TypedDict):
    """The fit, and its metrics on the validation scans: ``before`` and ``after`` the temperature.

    ``learnt_on``: number of training scans. ``optimistic``: see ``CalibrationScans``. ``undecided``: after the
    temperature.
    """

    temperature: float
    learnt_on: int
    optimistic: bool
    before: Calibration
    after: Calibration
    undecided: Undecided


@dataclass(frozen=True)
class Calibrator:
    """The part of ``CalibrationEvidence`` that ensemble.json holds.

    ``threshold``: of the predicted class's probability at ``temperature``; below it the ensemble is undecided.
    ``answer_share``: the target share of decided scans, 0 to 1. ``n``: number of training scans of the fit;
    ``cohort``: their cohort. ``date``: of the fit, UTC, as 2021-06-30. ``optimistic``: see ``CalibrationScans``; None
    in files of earlier versions.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    answer_share: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]
    cohort: str
    date: str
    optimistic: bool | None = None

    @classmethod
    def of(cls, evidence: CalibrationEvidence | None, *, cohort: str, date: str) -> "Calibrator | None":
        """Return the calibrator of ``calibration`` in metrics.json; None without one."""
        if evidence is None:
            return None
        undecided = evidence["undecided"]
        shares = undecided["threshold"], undecided["wanted_share"]
        return cls(evidence["temperature"], *shares, evidence["learnt_on"], cohort, date, evidence["optimistic"])

    def calibrated(self, probabilities: Floats) -> Floats:
        """Apply the temperature to the probabilities of stage 2, float64 [scans, classes]; their ranking stays."""
        return with_temperature(probabilities, self.temperature)

    def undecided(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Mark the scans whose calibrated probability is below the threshold, bool [scans].

        ``probabilities``: of stage 2, float64 [scans, classes].
        """
        return np.asarray(self.calibrated(probabilities).max(axis=1) < self.threshold)


def add_calibrated(patients: pd.DataFrame, calibrator: Calibrator | None, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the table with the additional columns ``calibrated_<class>`` and ``undecided`` (nullable).

    ``patients``: with ``p_<class>``. The new columns are empty without a calibrator, where probabilities are missing,
    and for training scans: stage 2 was fitted on them, which the temperature does not correct for.
    """
    probabilities = patients[probability_columns(classes)].to_numpy(dtype=np.float64)
    rows = ~np.isnan(probabilities).any(axis=1)
    if "split" in patients:
        rows &= patients["split"].to_numpy(dtype=str) != TRAINING
    calibrated = np.full(probabilities.shape, np.nan)
    undecided = pd.array([pd.NA] * len(patients), dtype="boolean")
    if calibrator is not None:
        calibrated[rows] = calibrator.calibrated(probabilities[rows])
        undecided[rows] = calibrator.undecided(probabilities[rows])
    table = patients.copy()
    table[calibrated_columns(classes)] = calibrated
    return table.assign(undecided=undecided)


FoldRows = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each fold, the rows of the other folds and the rows of the fold."""
_N_FOLDS = 5


def calibration_evidence(
    cross_validated: NDArray[np.float64],
    training_truth: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    scans: CalibrationScans,
    share: float,
    seed: int,
) -> CalibrationEvidence:
    """Fit temperature and threshold on training scans, and measure both on the validation scans.

    Args:
        cross_validated: Of ``cross_validated_probabilities``.
        training_truth: Class index of each training scan.
        probabilities: Of the validation scans, float64 [scans, classes].
        truth: Class index of each validation scan.
        classes: In the order of the columns.
        scans: The training scans of the fit.
        share: Of new scans that the threshold aims to decide, above 0 and up to 1.
        seed: Of the simulations in ``measure_calibration``.
    """
    values = cross_validated[scans.rows]
    temperature = temperature_of(values, training_truth[scans.rows], scans.weights)
    threshold = threshold_for(with_temperature(values, temperature).max(axis=1), share, scans.weights)
    calibrated = with_temperature(probabilities, temperature)
    return {
        "temperature": temperature,
        "learnt_on": len(values),
        "optimistic": scans.optimistic,
        "before": measure_calibration(probabilities, truth, classes, seed=seed),
        "after": measure_calibration(calibrated, truth, classes, seed=seed),
        "undecided": measure_undecided(calibrated, truth, classes, threshold=threshold, wanted_share=share),
    }


def cross_validated_probabilities(
    scans: StudyScans,
    training: pd.DataFrame,
    fit: Callable[[StudyScans], ScanPredictions],
    *,
    seed: int,
) -> NDArray[np.float64] | None:
    """Return each training scan's probabilities by stage 2 fitted on other patients, [scans, classes].

    ``training``: patient_id and label of the training scans, in their order. None where ``patient_folds`` has none.
    """
    folds = patient_folds(training, seed=seed)
    if folds is None:
        return None
    columns = probability_columns(scans.axes.classes)
    probabilities = np.full((len(training), len(columns)), np.nan)
    for rest, fold in folds:
        held_out = fit(scans.hold_out(rest, fold)).patients.loc[[scans.training_ids[k] for k in fold]]
        probabilities[fold] = held_out[columns].to_numpy(dtype=np.float64)
    return probabilities


def patient_folds(training: pd.DataFrame, *, seed: int) -> FoldRows | None:
    """Split the scans into five folds by patient, stratified by class; fewer where a class has fewer patients.

    ``training``: patient_id and label of the scans. Returns None where a class has a single patient.
    """
    n_folds = min(_N_FOLDS, int(training.groupby("label")["patient_id"].nunique().min()))
    if n_folds < 2:
        return None
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(folds.split(training, training["label"], training["patient_id"]))
