"""Calibration against statsmodels, scikit-learn and probabilities whose miscalibration is known."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from cnr_iemn.stage2.calibration_metrics import (
    calibration_error,
    measure_calibration,
    reliability,
    temperature_of,
    with_temperature,
)

CLASSES = ("Normal", "COVID-19", "CAP")


def outcomes(n: int, *, sureness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn from probabilities; what is told is `sureness` times as sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 1.5
    cumulative = softmax(logits, axis=1).cumsum(axis=1)
    truth = (rng.random((n, 1)) > cumulative).sum(axis=1)
    return softmax(sureness * logits, axis=1), np.minimum(truth, 2)


@pytest.mark.parametrize("sureness", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_what_was_done(sureness: float) -> None:
    told, truth = outcomes(20_000, sureness=sureness)
    temperature = temperature_of(told, truth)
    assert temperature == pytest.approx(sureness, rel=0.05)
    calibrated = with_temperature(told, temperature)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    assert (calibrated.argmax(axis=1) == told.argmax(axis=1)).all()
    for other in (0.95, 1.05):
        assert log_loss(truth, calibrated) < log_loss(truth, with_temperature(told, other * temperature))
    assert measure_calibration(calibrated, truth, CLASSES)["ece"] < 0.01


def test_slope_intercept_brier_and_loss_are_those_of_others() -> None:
    told, truth = outcomes(400, sureness=2.0)
    found = measure_calibration(told, truth, CLASSES)
    assert found["log_loss"] == pytest.approx(log_loss(truth, told))
    assert found["brier"] == pytest.approx(np.mean(((told - np.eye(3)[truth]) ** 2).sum(axis=1)))
    for k, name in enumerate(CLASSES):
        fitted = sm.Logit(truth == k, sm.add_constant(logit(told[:, k]))).fit(disp=0)
        assert (found["intercept"][name], found["slope"][name]) == pytest.approx(fitted.params, abs=1e-4)
        assert found["slope"][name] == pytest.approx(0.5, abs=0.15)


def test_the_bins_are_those_of_scikit_learn() -> None:
    told, truth = outcomes(300, sureness=1.5)
    confidence, right = told.max(axis=1), told.argmax(axis=1) == truth
    shares, means = calibration_curve(right, confidence, n_bins=10)
    bins = [each for each in reliability(confidence, right) if each["n"]]
    assert [each["share_right"] for each in bins] == pytest.approx(shares)
    assert [each["mean_probability"] for each in bins] == pytest.approx(means)
    assert sum(each["n"] for each in bins) == 300
    by_hand = sum(each["n"] / 300 * abs(each["share_right"] - each["mean_probability"]) for each in bins)
    assert calibration_error(confidence, right) == pytest.approx(by_hand)


def test_a_calibrated_booster_lies_in_its_band_and_one_that_is_too_sure_does_not() -> None:
    inside = 0
    for seed in range(40):
        told, truth = outcomes(98, sureness=1.0, seed=seed)
        found = measure_calibration(told, truth, CLASSES, seed=seed)
        low, middle, high = found["ece_null"]
        assert 0.02 < low < middle < high < 0.2
        inside += low <= found["ece"] <= high
    assert inside >= 31  # 36 expected of 40; a chance of 1% for fewer
    told, truth = outcomes(98, sureness=4.0)
    found = measure_calibration(told, truth, CLASSES)
    assert found["ece"] > found["ece_null"][2]


def test_a_class_that_is_separated_or_absent_has_no_line() -> None:
    told = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    found = measure_calibration(told, np.array([0, 1, 1]), CLASSES)
    assert found["slope"] == dict.fromkeys(CLASSES)
    assert found["intercept"] == dict.fromkeys(CLASSES)
