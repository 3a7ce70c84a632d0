"""The association of predictions with shortcuts, on scans where it is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from cnr_iemn.evaluation.shortcut_audit import decision_margins, rank_association, shortcut_audit
from cnr_iemn.report.tables.methods import association_table
from cnr_iemn.schemas import TRAINING, VALIDATION, probability_columns

CLASSES = ("a", "b", "c")


def cohort(seed: int, used: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """300 scans of three classes; one shortcut is higher in class c, and shifts the answers to c by ``used``."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1, 2], 100)
    shortcut = rng.normal(size=300) + 1.5 * (labels == 2)
    logits = rng.normal(size=(300, 3)) + 2.0 * np.eye(3)[labels]
    logits[:, 2] += used * shortcut
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [f"s{k}" for k in range(300)]
    patients = pd.DataFrame(probabilities, names, probability_columns(CLASSES)).assign(
        patient_id=names,
        split=np.where(np.arange(300) % 2, VALIDATION, TRAINING),
        label=[CLASSES[k] for k in labels],
    )
    table = pd.DataFrame({"shortcut": shortcut, "noise": rng.normal(size=300)}, names)
    return patients, table.iloc[::-1]  # in another order


def test_rho_equals_scipy_and_p_counts_every_permutation() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, 30).astype(float), rng.normal(size=30)
    found = rank_association(one, other, np.random.default_rng(1), permutations=99)
    assert found["rho"] == pytest.approx(spearmanr(one, other).statistic)
    five = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.array([2.0, 1.0, 3.0, 5.0, 4.0])
    found = rank_association(*five, np.random.default_rng(1), permutations=20_000)
    every = [spearmanr(order, five[1]).statistic for order in itertools.permutations(five[0])]
    assert found["p"] == pytest.approx(np.mean(np.abs(every) >= found["rho"] - 1e-9), abs=0.01)


def test_too_few_or_equal_values_have_no_association() -> None:
    rng = np.random.default_rng(0)
    assert rank_association(np.arange(3.0), np.arange(3.0), rng) == {"n": 3, "rho": None, "p": None}
    assert rank_association(np.ones(9), np.arange(9.0), rng) == {"n": 9, "rho": None, "p": None}


def test_a_margin_is_the_lead_over_the_best_other_class() -> None:
    margins = decision_margins(np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]))
    np.testing.assert_allclose(margins[0], np.log([0.7 / 0.2, 0.2 / 0.7, 0.1 / 0.7]))
    np.testing.assert_allclose(margins[1, 1:], 0)
    assert np.isfinite(margins).all()


@pytest.mark.slow
def test_a_used_shortcut_is_distinguished_from_an_unused_one() -> None:
    used = shortcut_audit(*cohort(0, used=1.5), CLASSES)
    assert used["alarm"]
    assert used["association"]["c"]["n"] == 50
    assert used["association"]["c"]["rho"] > 0.3
    assert used["association"]["c"]["p"] < 0.01
    unused = [shortcut_audit(*cohort(seed, used=0.0), CLASSES) for seed in range(5)]
    assert all(each["alarm"] for each in unused)
    p = [association["p"] for each in unused for association in each["association"].values()]
    assert sum(each < 0.05 for each in p) <= 2
    assert 0.3 < np.mean(p) < 0.7


def test_without_an_audit_there_is_no_text() -> None:
    patients, table = cohort(0, used=0.0)
    assert shortcut_audit(patients, table * 0, CLASSES) is None


def test_the_table_states_the_result() -> None:
    audit = shortcut_audit(*cohort(0, used=0.8), CLASSES)
    audit["association"]["b"] = {"n": 3, "rho": None, "p": None}
    table = association_table({"audit": audit, "notice": "phantom"})
    assert [row[:2] for row in table.rows] == [("a", "50"), ("b", "3"), ("c", "50")]
    assert table.rows[1][2:] == ("–", "–")
    assert table.rows[2][2] == f"{audit['association']['c']['rho']:+.2f}"
    assert table.notice == "phantom"
