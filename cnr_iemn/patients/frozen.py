"""Temperature and threshold as they were learnt on training scans, for scans that come later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.calibration import with_temperature
from cnr_iemn.records import TRAINING, calibrated_columns, probability_columns

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrozenCalibration:
    """What ensemble.json keeps of ``nested.calibration_evidence``.

    ``threshold``: of the named class's probability at ``temperature``; below it the ensemble is undecided.
    ``answer_share``: of the training scans that were to be answered, 0 to 1. ``n``: those scans; ``cohort``: theirs.
    ``date``: of learning, UTC, as 2021-06-30.
    """

    temperature: float
    threshold: float
    answer_share: float
    n: int
    cohort: str
    date: str

    @classmethod
    def of(cls, evidence: Mapping[str, Any] | None, *, cohort: str, date: str) -> "FrozenCalibration | None":
        """Return what is to be kept of ``calibration`` in metrics.json; None where there was nothing to learn from."""
        if evidence is None:
            return None
        undecided = evidence["undecided"]
        shares = undecided["threshold"], undecided["wanted_share"]
        return cls(evidence["temperature"], *shares, evidence["learnt_on"], cohort, date)

    def calibrated(self, probabilities: Floats) -> Floats:
        """Return the booster's probabilities at the temperature, float64 [scans, classes]; their order stays."""
        return with_temperature(probabilities, self.temperature)

    def undecided(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Return which scans have too low a calibrated probability, bool [scans], from the booster's probabilities."""
        return np.asarray(self.calibrated(probabilities).max(axis=1) < self.threshold)


def add_calibrated(patients: pd.DataFrame, frozen: FrozenCalibration | None, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the table with ``calibrated_<class>`` and ``undecided`` (nullable) after its columns.

    ``patients``: with ``p_<class>``. Empty without a calibration, where there are no probabilities, and for training
    scans: their booster has seen them, which the temperature does not allow for.
    """
    told = patients[probability_columns(classes)].to_numpy(dtype=np.float64)
    known = ~np.isnan(told).any(axis=1)
    if "split" in patients:
        known &= patients["split"].to_numpy(dtype=str) != TRAINING
    calibrated = np.full(told.shape, np.nan)
    undecided = pd.array([pd.NA] * len(patients), dtype="boolean")
    if frozen is not None:
        calibrated[known] = frozen.calibrated(told[known])
        undecided[known] = frozen.undecided(told[known])
    table = patients.copy()
    table[calibrated_columns(classes)] = calibrated
    return table.assign(undecided=undecided)
