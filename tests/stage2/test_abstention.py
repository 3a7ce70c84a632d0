"""Undecided: counted scan by scan."""

import numpy as np
import pytest

from cnr_iemn.stage2.abstention import measure_undecided, risk_by_share, threshold_for

CLASSES = ("Normal", "COVID-19", "CAP")
TOLD = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.35, 0.25, 0.4]])
TRUTH = np.array([0, 1, 1, 1, 0])


def test_the_threshold_answers_the_wanted_share_of_what_it_is_frozen_on_and_one_more() -> None:
    confidence = np.random.default_rng(0).random(209)
    for share in (0.5, 0.9, 0.95, 1.0):
        answered = (confidence >= threshold_for(confidence, share)).sum()
        assert min(share * 210, 209) <= answered < share * 210 + 1
    assert threshold_for(np.array([0.6, 0.6, 0.6, 0.9]), 0.5) == 0.6
    assert threshold_for(np.linspace(0.1, 0.9, 9), 0.9) == pytest.approx(0.1)  # nine of ten, in spite of rounding
    assert threshold_for(np.linspace(0.01, 0.19, 19), 0.9) == pytest.approx(0.02)  # 18 of 20


def test_new_scans_are_answered_as_wanted_on_average_however_few_taught_the_threshold() -> None:
    rng = np.random.default_rng(1)
    for n in (9, 20, 31):
        answered = [(rng.random(50) >= threshold_for(rng.random(n), 0.9)).mean() for _ in range(2000)]
        assert 0.9 - 0.006 < np.mean(answered) < 0.9 + 1 / n


def test_a_scan_that_weighs_twice_counts_twice() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.2])
    assert threshold_for(confidence, 0.5, np.array([1.0, 1.0, 1.0, 1.0])) == 0.7  # three of five
    assert threshold_for(confidence, 0.5, np.array([2.0, 1.0, 0.5, 0.5])) == 0.8  # three of four and a mean one


def test_rates_by_class_and_both_sensitivities() -> None:
    found = measure_undecided(TOLD, TRUTH, CLASSES, threshold=0.6, wanted_share=0.9)
    assert found["share_answered"] == 0.6
    assert found["accuracy_among_answered"] == 1.0
    covid = found["classes"]["COVID-19"]
    assert (covid["n"], covid["undecided"]) == (3, pytest.approx(1 / 3))
    assert (covid["sensitivity_among_answered"], covid["sensitivity_of_all"]) == (1.0, pytest.approx(2 / 3))
    assert found["classes"]["CAP"] == {
        "n": 0,
        "undecided": None,
        "sensitivity_among_answered": None,
        "sensitivity_of_all": None,
    }


def test_nobody_answered_has_no_accuracy() -> None:
    assert measure_undecided(TOLD, TRUTH, CLASSES, threshold=0.99, wanted_share=0.9)["accuracy_among_answered"] is None


def test_risk_falls_with_the_threshold_and_equals_come_together() -> None:
    confidence = np.array([0.9, 0.7, 0.7, 0.5])
    right = np.array([True, False, True, False])
    assert risk_by_share(confidence, right) == [[0.25, 0.0], [0.75, pytest.approx(1 / 3)], [1.0, 0.5]]
