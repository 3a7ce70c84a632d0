"""The shortcut audit on simulated cohorts with and without a known shortcut."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from cnr_iemn.evaluation.shortcut_audit import audit_shortcuts

SCANS = (76, 171, 60)
"""Scans of each class, as in COVID-CT-MD."""


def cohort(seed: int, effect: float = 0.0) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Ten shortcuts of 307 scans: a skewed count, a spacing of three values, four measurements, four rare flags.

    `effect`: by how many standard deviations one measurement is higher in the last class.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], SCANS)
    values = rng.normal(size=(len(labels), 10))
    values[:, 0] = rng.gamma(20, 5, len(labels))
    values[:, 1] = rng.choice([1, 2, 5], len(labels))
    values[:, 6:] = rng.random((len(labels), 4)) < [0.1, 0.3, 0.5, 0.05]
    values[:, 2] += effect * (labels == 2)
    return pd.DataFrame(values).add_prefix("s"), labels, [f"p{k}" for k in range(len(labels))]


@pytest.mark.slow
def test_clean_cohorts_rarely_raise_an_alarm() -> None:
    found = [audit_shortcuts(*cohort(seed), permutations=199) for seed in range(50)]
    assert sum(each["alarm"] for each in found) <= 2
    assert 0.4 < np.mean([each["p"] for each in found]) < 0.6


@pytest.mark.slow
def test_a_shortcut_of_one_standard_deviation_in_the_rarest_class_is_detected() -> None:
    found = [audit_shortcuts(*cohort(seed, effect=1.0), permutations=199) for seed in range(100, 120)]
    assert sum(each["alarm"] for each in found) >= 18
    assert all(max(each["by_shortcut"], key=each["by_shortcut"].get) == "s2" for each in found)


def test_two_scans_of_a_patient_never_help_each_other() -> None:
    """Each patient has a value of its own; its second scan would give its class away."""
    rng = np.random.default_rng(0)
    labels = np.tile(rng.integers(0, 3, 100), 2)
    own = pd.DataFrame(np.tile(rng.normal(size=(100, 60)), (2, 1))).add_prefix("s")
    together = audit_shortcuts(own, labels, [f"p{k % 100}" for k in range(200)], permutations=19)
    apart = audit_shortcuts(own, labels, [f"p{k}" for k in range(200)], permutations=19)
    assert together is not None
    assert apart is not None
    assert together["auc"] < 0.65
    assert apart["auc"] > 0.9


def test_the_out_of_fold_predictions_equal_scikit_learns_ridge() -> None:
    table, labels, patients = cohort(3, effect=0.6)
    found = audit_shortcuts(table[["s2"]], labels, patients, permutations=19)
    assert found is not None
    part = np.random.default_rng(0).permutation(len(labels)) % 10
    part = part[np.unique(patients, return_inverse=True)[1]]
    values, areas = table["s2"].to_numpy(), []
    for label in range(3):
        target = (labels == label) - np.mean(labels == label)
        answers = np.empty(len(labels))
        for k in range(10):
            rest = part != k
            scaled = (values - values[rest].mean()) / values[rest].std()
            design = np.stack([scaled, scaled**2], axis=1)
            design -= design[rest].mean(axis=0)
            answers[~rest] = Ridge(10.0, fit_intercept=False).fit(design[rest], target[rest]).predict(design[~rest])
        areas.append(roc_auc_score(labels == label, answers))
    assert found["auc"] == pytest.approx(max(areas))
    assert found["by_shortcut"] == {"s2": pytest.approx(max(areas), abs=0.005)}


def test_constant_features_give_no_audit_and_missing_values_no_association() -> None:
    table, labels, patients = cohort(0)
    assert audit_shortcuts(table * 0, labels, patients) is None
    assert audit_shortcuts(table, labels * 0, patients) is None
    table.loc[labels == 2, "s5"] = np.nan
    assert "s5" in audit_shortcuts(table, labels, patients, permutations=19)["by_shortcut"]
    table["s5"] = np.nan  # spacing that no scan tells
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "s5" not in audit_shortcuts(table, labels, patients, permutations=19)["by_shortcut"]
