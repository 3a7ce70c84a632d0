"""Temperature and threshold for later scans."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from cnr_iemn.stage2.calibration import Calibrator, add_calibrated

CLASSES = ("a", "b", "c")
TOLD = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]])
FROZEN = Calibrator(2.0, 0.45, 0.9, 40, "cohort", "2021-06-30", False)


def test_it_keeps_what_was_learnt() -> None:
    undecided = {"threshold": 0.45, "wanted_share": 0.9}
    evidence = {"temperature": 2.0, "learnt_on": 40, "optimistic": False, "undecided": undecided}
    assert Calibrator.of(evidence, cohort="cohort", date="2021-06-30") == FROZEN
    assert Calibrator.of(None, cohort="cohort", date="2021-06-30") is None


def test_a_scan_is_undecided_by_its_calibrated_probability() -> None:
    calibrated = FROZEN.calibrated(TOLD)
    assert calibrated == pytest.approx(softmax(np.log(TOLD) / 2, axis=1))
    assert (calibrated.argmax(axis=1) == TOLD.argmax(axis=1)).all()
    assert FROZEN.undecided(TOLD).tolist() == [False, True, False]
    at_threshold = Calibrator(1.0, 0.5, 0.9, 40, "cohort", "2021-06-30")
    assert not at_threshold.undecided(np.array([[0.5, 0.25, 0.25]]))[0]  # answered from the threshold on


def test_columns_are_empty_where_nothing_can_be_said() -> None:
    patients = pd.DataFrame({"split": ["training", "validation", "validation"]}, index=["x", "y", "z"])
    patients[["p_a", "p_b", "p_c"]] = TOLD
    patients.loc["z", ["p_a", "p_b", "p_c"]] = np.nan
    found = add_calibrated(patients, FROZEN, CLASSES)
    assert found["calibrated_a"].isna().tolist() == [True, False, True]
    assert found["undecided"].isna().tolist() == [True, False, True]
    assert found.loc["y", "undecided"]
    assert found.loc["y", ["calibrated_a", "calibrated_b", "calibrated_c"]].sum() == pytest.approx(1)
    without = add_calibrated(patients, None, CLASSES)
    assert without[["calibrated_a", "undecided"]].isna().all(axis=None)
    assert list(without.columns) == list(found.columns)
