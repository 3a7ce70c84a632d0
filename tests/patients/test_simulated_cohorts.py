"""The generator of the method study keeps to its bands, and the comparison at equal COVID-19 sensitivity is one."""

import numpy as np
import pytest

from benchmarks.methods import answer_cohort, moved, offset_for, simulated, simulated_table
from benchmarks.simulated_cohorts import (
    CAP,
    COUNTS,
    COVID,
    MODELS,
    SimulatedCohort,
    error_correlations,
    intraclass_correlation,
    simulate,
    slice_accuracy,
)
from cnr_iemn.patients.methods import METHODS
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BOOSTER_METHOD, SPGC_CLASSES

SMALL = {TRAINING: (12, 25, 14), VALIDATION: (30, 30, 30)}


def indices(cohort: SimulatedCohort, split: str) -> np.ndarray:
    return np.array([SPGC_CLASSES.index(k) for k in cohort.scans.query(f"split == '{split}'")["label"]])


def arrays(cohort: SimulatedCohort, split: str) -> list[np.ndarray]:
    return [cohort.sets[k][0] for k in cohort.scans.index[cohort.scans["split"] == split]]


@pytest.mark.parametrize("name", MODELS)
def test_errors_correlate_as_stated_and_the_papers_method_is_the_papers(name: str) -> None:
    cohorts = [simulate(MODELS[name], seed) for seed in range(6)]
    within, between = np.mean([error_correlations(each) for each in cohorts], axis=0)
    assert 0.3 <= within <= 0.5
    assert 0.6 <= between <= 0.8
    assert 0.8 < np.mean([slice_accuracy(each) for each in cohorts]) < 0.93  # the paper: 0.88 to 0.89
    found = []
    for cohort in cohorts:
        assert np.bincount(indices(cohort, VALIDATION)).tolist() == list(COUNTS[VALIDATION]) == [24, 55, 19]
        assert np.bincount(indices(cohort, TRAINING)).tolist() == list(COUNTS[TRAINING]) == [52, 116, 41]
        answer = METHODS[BOOSTER_METHOD](arrays(cohort, TRAINING), indices(cohort, TRAINING))
        told = answer(arrays(cohort, VALIDATION)).argmax(axis=1)
        found.append([(told[indices(cohort, VALIDATION) == k] == k).mean() for k in range(3)])
    normal, covid, cap = np.mean(found, axis=0)
    assert 0.4 < cap < 0.65  # the paper: 10 of 19, and 9 of 20
    assert normal > 0.9
    assert covid > 0.84


def test_the_same_seed_gives_the_same_cohort() -> None:
    one, again, other = (simulate(MODELS["B"], seed, SMALL) for seed in (1, 1, 2))
    for scan_id, (array,) in one.sets.items():
        np.testing.assert_array_equal(again.sets[scan_id][0], array)
        np.testing.assert_allclose(array.sum(axis=2), 1, rtol=1e-6)
        assert 112 <= array.shape[1] <= 186
    assert any(other.sets[k][0].shape != one.sets[k][0].shape for k in one.sets)


def test_the_intraclass_correlation_is_the_published_one() -> None:
    # Shrout and Fleiss, Psychological Bulletin 1979, table 2: six targets, four ratings each; ICC(1,1) = 0.17
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert intraclass_correlation([np.array(row, dtype=float) for row in ratings]) == pytest.approx(0.166, abs=0.001)


@pytest.mark.parametrize("name", ["infected first, then which", "attention over the slices", BOOSTER_METHOD])
def test_permuted_labels_lead_to_chance(name: str) -> None:
    right, permuted = [], []
    for seed in range(8):
        cohort = simulate(MODELS["D"], seed, SMALL)
        for given, found in ((cohort, right), (cohort.permuted(seed), permuted)):
            told = METHODS[name](arrays(given, TRAINING), indices(given, TRAINING))(arrays(cohort, VALIDATION))
            found.append(np.mean([(told[k * 30 : k * 30 + 30].argmax(axis=1) == k).mean() for k in range(3)]))
    assert np.mean(permuted) == pytest.approx(1 / 3, abs=0.1)
    assert np.mean(right) > 0.55


def test_the_offset_finds_as_many_covid_scans_as_wanted() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [10, 40, 20])
    within = np.array([rng.dirichlet(np.ones(3) + np.eye(3)[k]) for k in labels])
    np.testing.assert_array_equal(moved(within, 0.0), within.argmax(axis=1))

    def found(offset: float) -> int:
        return int((moved(within, offset)[labels == COVID] == COVID).sum())

    most = found(-np.inf)
    assert most == (within[labels == COVID].argmax(axis=1) != 0).sum() < 40
    for wanted in range(1, most + 1):
        assert found(offset_for(within, labels, wanted)) == wanted
    assert found(offset_for(within, labels, 40)) == most
    assert found(np.inf) == 0
    assert (moved(within, -0.5)[within.argmax(axis=1) == 0] == 0).all()


def test_the_papers_method_is_compared_with_itself_at_its_own_sensitivity() -> None:
    cohort = simulate(MODELS["A"], 0, SMALL)
    chosen = {name: METHODS[name] for name in (BOOSTER_METHOD, "three least healthy slices")}
    found = answer_cohort(cohort.sets, cohort.scans, {**chosen, "again": METHODS[BOOSTER_METHOD]})
    paper = found[BOOSTER_METHOD]
    for how in ("as_is", "trained", "equal"):
        np.testing.assert_array_equal(getattr(found["again"], how), getattr(paper, how))
    truth = indices(cohort, VALIDATION)
    assert paper.sensitivity(CAP) == np.mean(paper.equal[truth == CAP] == CAP)
    assert paper.sensitivity(COVID) == paper.sensitivity(COVID, "as_is")
    other = found["three least healthy slices"]
    assert other.sensitivity(COVID, "as_is") != paper.sensitivity(COVID)
    assert other.sensitivity(COVID) == paper.sensitivity(COVID)


def test_what_is_printed_says_that_it_is_simulated() -> None:
    names = ("three least healthy slices", BOOSTER_METHOD)
    found = simulated("C", 2, {name: METHODS[name] for name in names}, SMALL)
    assert found["notice"] == "simulated, not evidence"
    assert "simulated, not evidence" in str(simulated_table("C", found).title)
    paper, other = found["methods"][BOOSTER_METHOD], found["methods"][names[0]]
    assert paper["cap_difference"]["equal"] == [0, 0, 0]
    middle, low, high = other["cap_difference"]["equal"]
    assert low < middle < high
    assert other["covid_difference"]["equal"][0] == 0
