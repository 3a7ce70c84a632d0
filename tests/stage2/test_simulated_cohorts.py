"""Simulated cohorts have the stated correlations; methods are compared at equal COVID-19 sensitivity."""

import numpy as np
import pytest

from benchmarks.methods import (
    error_model_table,
    find_offset,
    predict_cohort,
    predict_with_offset,
    study_error_model,
)
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
from cnr_iemn.constants import BOOSTER_METHOD, SPGC_CLASSES
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes

pytestmark = pytest.mark.slow

AXES = Axes(("one", "two", "three", "four"), SPGC_CLASSES)
SMALL = {TRAINING: (12, 25, 14), VALIDATION: (30, 30, 30)}


def indices(cohort: SimulatedCohort, split: str) -> np.ndarray:
    return np.array([SPGC_CLASSES.index(k) for k in cohort.scans.query(f"split == '{split}'")["label"]])


def arrays(cohort: SimulatedCohort, split: str) -> list[np.ndarray]:
    return [cohort.sets[k][0] for k in cohort.scans.index[cohort.scans["split"] == split]]


@pytest.mark.parametrize("name", MODELS)
def test_errors_correlate_as_stated_and_the_papers_method_is_the_papers(name: str) -> None:
    cohorts = [simulate(MODELS[name], seed) for seed in range(6)]
    within, between = np.mean([error_correlations(cohort) for cohort in cohorts], axis=0)
    assert 0.3 <= within <= 0.5
    assert 0.6 <= between <= 0.8
    assert 0.8 < np.mean([slice_accuracy(cohort) for cohort in cohorts]) < 0.93  # the paper: 0.88 to 0.89
    sensitivities = []
    for cohort in cohorts:
        assert np.bincount(indices(cohort, VALIDATION)).tolist() == list(COUNTS[VALIDATION]) == [24, 55, 19]
        assert np.bincount(indices(cohort, TRAINING)).tolist() == list(COUNTS[TRAINING]) == [52, 116, 41]
        fitted = METHODS[BOOSTER_METHOD].fit(arrays(cohort, TRAINING), indices(cohort, TRAINING), AXES)
        classes = fitted.predict_proba(arrays(cohort, VALIDATION)).argmax(axis=1)
        sensitivities.append([(classes[indices(cohort, VALIDATION) == k] == k).mean() for k in range(3)])
    normal, covid, cap = np.mean(sensitivities, axis=0)
    assert 0.4 < cap < 0.65  # the paper: 10 of 19, and 9 of 20
    assert normal > 0.9
    assert covid > 0.84


def test_the_same_seed_gives_the_same_cohort() -> None:
    first, repetition, other = (simulate(MODELS["B"], seed, SMALL) for seed in (1, 1, 2))
    for scan_id, (array,) in first.sets.items():
        np.testing.assert_array_equal(repetition.sets[scan_id][0], array)
        np.testing.assert_allclose(array.sum(axis=2), 1, rtol=1e-6)
        assert 112 <= array.shape[1] <= 186
    assert any(other.sets[k][0].shape != first.sets[k][0].shape for k in first.sets)


def test_the_intraclass_correlation_is_the_published_one() -> None:
    # Shrout and Fleiss, Psychological Bulletin 1979, table 2: six targets, four ratings each; ICC(1,1) = 0.17
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert intraclass_correlation([np.array(row, dtype=float) for row in ratings]) == pytest.approx(0.166, abs=0.001)


@pytest.mark.parametrize("name", ["infected first, then which", "attention over the slices", BOOSTER_METHOD])
def test_permuted_labels_lead_to_chance(name: str) -> None:
    accuracies, permuted_accuracies = [], []
    for seed in range(8):
        cohort = simulate(MODELS["D"], seed, SMALL)
        for source, results in ((cohort, accuracies), (cohort.permute_labels(seed), permuted_accuracies)):
            fitted = METHODS[name].fit(arrays(source, TRAINING), indices(source, TRAINING), AXES)
            probabilities = fitted.predict_proba(arrays(cohort, VALIDATION))
            results.append(
                np.mean([(probabilities[k * 30 : k * 30 + 30].argmax(axis=1) == k).mean() for k in range(3)])
            )
    assert np.mean(permuted_accuracies) == pytest.approx(1 / 3, abs=0.1)
    assert np.mean(accuracies) > 0.55


def test_the_offset_gives_the_requested_number_of_covid_scans() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [10, 40, 20])
    probabilities = np.array([rng.dirichlet(np.ones(3) + np.eye(3)[k]) for k in labels])
    np.testing.assert_array_equal(predict_with_offset(probabilities, 0.0), probabilities.argmax(axis=1))

    def count_correct(offset: float) -> int:
        return int((predict_with_offset(probabilities, offset)[labels == COVID] == COVID).sum())

    maximum = count_correct(-np.inf)
    assert maximum == (probabilities[labels == COVID].argmax(axis=1) != 0).sum() < 40
    for n_covid in range(1, maximum + 1):
        assert count_correct(find_offset(probabilities, labels, n_covid)) == n_covid
    assert count_correct(find_offset(probabilities, labels, 40)) == maximum
    assert count_correct(np.inf) == 0
    assert (predict_with_offset(probabilities, -0.5)[probabilities.argmax(axis=1) == 0] == 0).all()


def test_the_papers_method_is_compared_with_itself_at_its_own_sensitivity() -> None:
    cohort = simulate(MODELS["A"], 0, SMALL)
    methods = {name: METHODS[name] for name in (BOOSTER_METHOD, "three least healthy slices")}
    predictions = predict_cohort(cohort.sets, cohort.scans, {**methods, "copy": METHODS[BOOSTER_METHOD]})
    paper = predictions[BOOSTER_METHOD]
    for threshold in ("as_is", "trained", "equal"):
        np.testing.assert_array_equal(getattr(predictions["copy"], threshold), getattr(paper, threshold))
    truth = indices(cohort, VALIDATION)
    assert paper.sensitivity(CAP) == np.mean(paper.equal[truth == CAP] == CAP)
    assert paper.sensitivity(COVID) == paper.sensitivity(COVID, "as_is")
    other = predictions["three least healthy slices"]
    assert other.sensitivity(COVID, "as_is") != paper.sensitivity(COVID)
    assert other.sensitivity(COVID) == paper.sensitivity(COVID)


def test_the_table_says_that_cohorts_are_simulated() -> None:
    names = ("three least healthy slices", BOOSTER_METHOD)
    result = study_error_model("C", 2, {name: METHODS[name] for name in names}, SMALL)
    assert result["notice"] == "simulated, not evidence"
    assert "simulated, not evidence" in str(error_model_table("C", result).title)
    paper, other = result["methods"][BOOSTER_METHOD], result["methods"][names[0]]
    assert paper["cap_difference"]["equal"] == [0, 0, 0]
    middle, low, high = other["cap_difference"]["equal"]
    assert low < middle < high
    assert other["covid_difference"]["equal"][0] == 0
