"""Intervals against statsmodels, scikit-learn and a bootstrap written out patient by patient."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from cnr_iemn.statistics.confidence_intervals import (
    clustered_accuracy,
    patient_bootstrap,
    weighted_auc,
    weighted_metrics,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(86, 98, 79.8, 92.9), (10, 19, 31.7, 72.7), (73, 90, 71.8, 87.9), (9, 20, 25.8, 65.8)],
)
def test_the_papers_counts_have_the_published_intervals(right: int, n: int, low: float, high: float) -> None:
    found = wilson(right, n)
    assert (round(100 * found["low"], 1), round(100 * found["high"], 1)) == (low, high)
    assert (found["low"], found["high"]) == pytest.approx(proportion_confint(right, n, method="wilson"))


def test_zero_scans_have_no_interval() -> None:
    assert wilson(0, 0) == {"value": None, "low": None, "high": None}


def cohort(n: int = 60, seed: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Some patients have two scans; probabilities are rounded, so that ties occur."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[truth]
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1)
    return truth, probabilities, [f"p{k // 2 if k < 20 else k}" for k in range(n)]


def by_scikit_learn(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    answers = probabilities.argmax(axis=1)
    auc = [roc_auc_score(truth == label, probabilities[:, label]) for label in range(3)]
    return {
        "accuracy": float((answers == truth).mean()),
        "balanced_accuracy": balanced_accuracy_score(truth, answers),
        "macro_f1": f1_score(truth, answers, average="macro"),
        "macro_auc": float(np.mean(auc)),
    }


def test_weighted_figures_are_those_of_repeated_scans() -> None:
    truth, probabilities, _ = cohort()
    weights = np.random.default_rng(0).integers(0, 4, (5, len(truth))).astype(float)
    found = weighted_metrics(truth, probabilities, weights)
    for row, counts in enumerate(weights.astype(int)):
        expected = by_scikit_learn(np.repeat(truth, counts), np.repeat(probabilities, counts, axis=0))
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected)
    auc = weighted_auc(truth == 1, probabilities[:, 1], weights)
    assert auc[0] == pytest.approx(roc_auc_score(truth == 1, probabilities[:, 1], sample_weight=weights[0]))


def test_the_bootstrap_draws_patients_within_their_class() -> None:
    truth, probabilities, patients = cohort()
    truth[:20:2] = truth[1:20:2]  # both scans of a patient are of one class, so that strata are plain
    found = patient_bootstrap(truth.tolist(), probabilities, patients, resamples=4000, seed=1)
    names = np.array(patients)
    owners = list(dict.fromkeys(patients))
    of_class = {label: [p for p in owners if truth[names == p][0] == label] for label in range(3)}
    rng = np.random.default_rng(9)
    counts = np.zeros((1000, len(truth)))
    for row in counts:
        for members in of_class.values():
            for patient in rng.choice(members, len(members)):
                row[names == patient] += 1
    resampled = weighted_metrics(truth, probabilities, counts)  # scikit-learn's of the repeated scans: see above
    assert set(resampled) == set(found)
    for name, value in by_scikit_learn(truth, probabilities).items():
        low, high = np.quantile(resampled[name], [0.025, 0.975])
        assert found[name]["value"] == pytest.approx(value)
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high), abs=0.015)
    assert found == patient_bootstrap(truth.tolist(), probabilities, patients, resamples=4000, seed=1)


def test_a_single_class_has_no_auc() -> None:
    found = patient_bootstrap([0, 0], np.array([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"], resamples=50)
    assert found["macro_auc"] == {"value": None, "low": None, "high": None}
    assert found["accuracy"]["value"] == 0.5


def test_slices_of_one_patient_count_together() -> None:
    """Against a bootstrap written out; one patient's slices all right or all wrong make the interval wide."""
    rng = np.random.default_rng(3)
    patients = [f"p{k}" for k in range(30) for _ in range(20)]
    labels = ["a" if k < 18 else "b" for k in range(30) for _ in range(20)]
    right = rng.random(600) < np.repeat(rng.beta(0.3, 0.15, 30), 20)
    found = clustered_accuracy(right, labels, patients, seed=1)
    assert found["value"] == right.mean()
    by_patient = right.reshape(30, 20)
    shares = []
    for _ in range(4000):
        drawn = [*rng.integers(0, 18, 18), *rng.integers(18, 30, 12)]
        shares.append(by_patient[drawn].mean())
    low, high = np.quantile(shares, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)
    naive = wilson(int(right.sum()), 600)
    assert found["high"] - found["low"] > 3 * (naive["high"] - naive["low"])


def test_zero_slices_have_no_interval() -> None:
    assert clustered_accuracy(np.zeros(0, bool), [], []) == {"value": None, "low": None, "high": None}


def test_percentiles_that_coincide_are_no_interval() -> None:
    """Resamples of perfect predictions are perfect, and do not make 36 scans certain."""
    truth = np.repeat([0, 1, 2], 12)
    figures = patient_bootstrap(truth.tolist(), np.eye(3)[truth], [f"p{k}" for k in range(36)], resamples=200, seed=0)
    assert figures["accuracy"] == {"value": 1.0, "low": None, "high": None}
    clustered = clustered_accuracy(np.ones(36, bool), list("abc" * 12), [str(k) for k in range(36)])
    assert clustered == {"value": 1.0, "low": None, "high": None}
