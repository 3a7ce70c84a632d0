"""Subgroups against statsmodels and scikit-learn, a planted difference, clean cohorts, and what may be told."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2, chi2_contingency
from sklearn.metrics import accuracy_score, recall_score
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from benchmarks.subgroups import alarms, measure, simulated_cohort
from cnr_iemn.data.demographics.group_table import coarse_table
from cnr_iemn.evaluation.subgroups.disclosure import hidden_cells
from cnr_iemn.evaluation.subgroups.interaction import association_test, detectable_difference
from cnr_iemn.evaluation.subgroups.performance import subgroup_performance
from cnr_iemn.statistics.confidence_intervals import Estimate

CLASSES = ("Normal", "CAP", "COVID-19")


def values(estimate: Estimate) -> tuple[float | None, ...]:
    return estimate["value"], estimate["low"], estimate["high"]


def test_figures_are_those_of_statsmodels_and_scikit_learn() -> None:
    patients, groups = simulated_cohort(3, lower_by=0.3)
    held_out = patients[patients["split"] == "validation"]
    found = subgroup_performance(patients, groups, CLASSES, temperature=None)["sex"]["groups"]
    assert set(found) == {"female", "male"}
    for level, group in found.items():
        scans = held_out[groups.loc[held_out.index, "sex"] == level]
        correct = (scans["label"] == scans["predicted"]).to_numpy()
        accuracy = accuracy_score(scans["label"], scans["predicted"])
        interval = proportion_confint(correct.sum(), len(scans), method="wilson")
        assert group["n"] == len(scans)
        assert values(group["accuracy"]) == pytest.approx((accuracy, *interval))
        recalls = recall_score(scans["label"], scans["predicted"], labels=CLASSES, average=None)
        for label, recall in zip(CLASSES, recalls, strict=True):
            n = int((scans["label"] == label).sum())
            assert group["n_by_class"][label] in (n, None)
            if n >= 10 and group["n_by_class"][label] is not None:
                interval = proportion_confint(round(recall * n), n, method="wilson")
                assert values(group["sensitivity"][label]) == pytest.approx((recall, *interval))
            else:
                assert values(group["sensitivity"][label]) == (None, None, None)
        statistics = DescrStatsW(scans[[f"p_{label}" for label in CLASSES]].to_numpy().max(axis=1) - correct)
        expected = (statistics.mean, *statistics.tconfint_mean(0.05))
        assert values(group["overconfidence"]) == pytest.approx(expected)


def test_a_temperature_moves_the_confidence_alone() -> None:
    patients, groups = simulated_cohort(3)
    before, after = (
        subgroup_performance(patients, groups, CLASSES, temperature=t)["sex"]["groups"]["male"] for t in (None, 3.0)
    )
    assert before["accuracy"] == after["accuracy"]
    assert before["overconfidence"]["value"] > after["overconfidence"]["value"]


def test_the_statistic_is_that_of_cochran_mantel_and_haenszel() -> None:
    """Of two groups statsmodels has it; of several in one stratum it is Pearson's but for (n - 1) / n."""
    rng = np.random.default_rng(0)
    correct, classes = rng.random(2000) < 0.7, rng.integers(3, size=2000)
    names = [str(k) for k in range(2000)]
    two = rng.integers(2, size=2000)
    tables = [
        np.array([[((two == g) & (correct == c) & (classes == k)).sum() for c in (True, False)] for g in (0, 1)])
        for k in range(3)
    ]
    expected = StratifiedTable(tables).test_null_odds(correction=False)
    statistic, p = association_test(correct, two, classes, names)
    assert statistic == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.02)
    several = rng.integers(4, size=2000)
    table = [[((several == g) & (correct == c)).sum() for c in (True, False)] for g in range(4)]
    pearson = chi2_contingency(table, correction=False)
    statistic, p = association_test(correct, several, np.zeros(2000, np.int64), names)
    assert statistic == pytest.approx(pearson.statistic * 1999 / 2000)
    assert p == pytest.approx(pearson.pvalue, abs=0.02)


def test_the_scans_of_a_patient_are_exchanged_together() -> None:
    """Forty patients with five scans each, all right or all wrong: by scan the difference would seem certain."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(40), 5)
    correct, group = (rng.random(40) < 0.7)[patient], (np.arange(40) % 2)[patient]
    by_patient = association_test(correct, group, np.zeros(200, np.int64), patient.astype(str).tolist())[1]
    alone = association_test(correct[::5], group[::5], np.zeros(40, np.int64), patient[::5].astype(str).tolist())[1]
    assert by_patient == pytest.approx(alone, abs=0.02)
    assert association_test(correct, group, np.zeros(200, np.int64), [str(k) for k in range(200)])[1] < by_patient / 2


@pytest.mark.parametrize(
    ("sizes", "accuracy", "variables"),
    [((49, 49), 0.9, 1), ((70, 28), 0.85, 6), ((44, 54), 0.89, 5), ((200, 150), 0.9, 5)],
)
def test_what_can_be_found_is_found_with_the_stated_power(
    sizes: tuple[int, int], accuracy: float, variables: int
) -> None:
    """By the score test, the statistic of one stratum, on every pair of binomial counts: never less than 80%."""
    difference = detectable_difference(sizes, accuracy, variables=variables)
    assert difference is not None
    assert 0.8 <= exact_power(sizes, accuracy, difference, 0.05 / variables) < 0.86


def exact_power(sizes: tuple[int, int], accuracy: float, difference: float, significance: float) -> float:
    """Return how often the score test of two proportions finds it, the larger group being the less accurate."""
    rest, largest = min(sizes), max(sizes)
    hits = np.arange(rest + 1)[:, None], np.arange(largest + 1)[None, :]
    chance = binom.pmf(hits[0], rest, accuracy) * binom.pmf(hits[1], largest, accuracy - difference)
    pooled = (hits[0] + hits[1]) / sum(sizes)
    variance = pooled * (1 - pooled) * (1 / rest + 1 / largest)
    gap = hits[0] / rest - hits[1] / largest
    found = gap**2 > chi2.isf(significance, 1) * variance
    return float(chance[found & (variance > 0)].sum())


def test_a_difference_that_no_cohort_of_this_size_shows() -> None:
    assert detectable_difference([10, 10], 0.5, variables=10) is None


def test_scans_of_one_patient_promise_no_more_than_the_patient() -> None:
    """Each scan twice, of the same patient and with the same outcome, tells nothing new; of others it would."""
    patients, groups = simulated_cohort(0)
    twins = patients.rename(index=lambda name: f"{name}-b")
    whole, both = pd.concat([patients, twins]), pd.concat([groups, groups.rename(index=lambda name: f"{name}-b")])

    def smallest(table: pd.DataFrame) -> float:
        test = subgroup_performance(table, both, CLASSES, temperature=None)["sex"]["interaction"]
        assert test is not None
        assert test["detectable"] is not None
        return test["detectable"]

    assert smallest(whole) == smallest(patients)
    assert smallest(whole.assign(patient_id=whole.index)) < smallest(patients)


@pytest.mark.slow
def test_a_planted_difference_is_found_and_clean_cohorts_raise_no_alarm() -> None:
    """The short form of benchmarks/subgroups.py, which has the figures."""
    assert sum("sex" in alarms(measure(seed, lower_by=0.45)) for seed in range(12)) >= 11
    assert sum(bool(alarms(measure(seed))) for seed in range(24)) <= 2


def test_small_groups_are_counted_and_not_rated() -> None:
    patients, groups = simulated_cohort(0)
    held_out = patients.index[patients["split"] == "validation"]
    groups["ward"] = "a"
    groups.loc[held_out[:9], "ward"] = "b"
    ward = subgroup_performance(patients, groups, CLASSES, temperature=None)["ward"]
    assert (ward["groups"]["b"]["n"], values(ward["groups"]["b"]["accuracy"])) == (9, (None, None, None))
    assert ward["interaction"] is None
    groups.loc[held_out[9], "ward"] = "b"
    ward = subgroup_performance(patients, groups, CLASSES, temperature=None)["ward"]
    assert ward["groups"]["b"]["accuracy"]["value"] is not None
    assert ward["interaction"] is not None
    groups.loc[held_out[:6], "ward"] = "a"  # four are left: they are not told apart
    coarse = coarse_table(groups, counted=held_out)
    assert set(coarse["ward"]) == {"any"}
    assert "ward" not in subgroup_performance(patients, coarse, CLASSES, temperature=None)


def test_no_hidden_cell_follows_from_sums() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        counts = rng.poisson(rng.uniform(1, 20, size=(rng.integers(2, 6), 3)))
        hidden = hidden_cells(counts)
        assert hidden[(counts > 0) & (counts < 5)].all()
        if not hidden.any():
            continue
        cells = np.argwhere(hidden)
        sums = np.zeros((sum(counts.shape), len(cells)))
        for k, (row, column) in enumerate(cells):
            sums[row, k] = sums[counts.shape[0] + column, k] = 1
        _, singular, directions = np.linalg.svd(sums)
        free = directions[(singular > 1e-9).sum() :]
        assert (np.abs(free).max(axis=0) > 1e-9).all()  # each hidden cell can be another number with the same sums
    assert not hidden_cells(np.array([[5, 8], [0, 40]])).any()


def test_without_groups_there_is_nothing() -> None:
    patients, groups = simulated_cohort(0)
    assert subgroup_performance(patients, groups[[]], CLASSES, temperature=None) == {}
    assert subgroup_performance(patients, pd.DataFrame(index=patients.index), CLASSES, temperature=None) == {}
