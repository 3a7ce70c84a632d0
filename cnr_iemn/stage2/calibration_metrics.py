"""Calibration of probabilities: temperature scaling, and its metrics."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit, softmax
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]
BINS = 10
_SIMULATIONS = 2000
_FLOOR = 1e-7  # float32 arithmetic gives zeros, whose logarithm is infinite


class Bin(TypedDict):
    """Scans whose probability of the predicted class lies in one of ten bins; None where there is none."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    share_right: float | None


class Calibration(TypedDict):
    """Calibration metrics on scans that neither trained stage 2 nor set the temperature.

    ``ece``: expected calibration error of the predicted class over ten bins; ``ece_null``: its 5%, 50% and 95%
    quantiles for perfectly calibrated probabilities with as many scans. ``slope`` and ``intercept``: of the logistic
    regression of each class on the logit of its probability; 1 and 0 for perfect ones, None where it has no solution.
    """

    n: int
    brier: float
    log_loss: float
    ece: float
    ece_null: list[float]
    slope: dict[str, float | None]
    intercept: dict[str, float | None]
    reliability: list[Bin]


def temperature_of(probabilities: Floats, truth: NDArray[np.int64], weights: Floats | None = None) -> float:
    """Return the temperature with the least log-loss (Guo et al., ICML 2017); above 1 stage 2 is over-confident.

    ``probabilities``: float64 [scans, classes], of a stage 2 that has not seen these scans. ``truth``: class indices.
    ``weights``: of the scans, float64 [scans]; None for equal weights.
    """
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(np.average(log_p[np.arange(len(truth)), truth], weights=weights))

    result = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))


def with_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Apply a temperature to probabilities, float64 [scans, classes]; the most probable class stays."""
    return np.asarray(softmax(_logits(probabilities) / temperature, axis=1))


def measure_calibration(
    probabilities: Floats, truth: NDArray[np.int64], classes: tuple[str, ...], *, seed: int = 0
) -> Calibration:
    """Return the calibration metrics of probabilities. ``truth``: class indices, at least one scan."""
    rows = np.arange(len(truth))
    one_hot = np.eye(probabilities.shape[1])[truth]
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    rng = np.random.default_rng(seed)
    # well calibrated: the predicted class is correct with its own probability
    null_errors = [calibration_error(confidence, rng.random(len(truth)) < confidence) for _ in range(_SIMULATIONS)]
    lines = {name: _logistic_line(probabilities[:, k], truth == k) for k, name in enumerate(classes)}
    return {
        "n": len(truth),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "log_loss": float(-np.log(np.clip(probabilities[rows, truth], _FLOOR, 1)).mean()),
        "ece": calibration_error(confidence, correct),
        "ece_null": [float(value) for value in np.quantile(null_errors, [0.05, 0.5, 0.95])],
        "slope": {name: line[0] for name, line in lines.items()},
        "intercept": {name: line[1] for name, line in lines.items()},
        "reliability": reliability(confidence, correct),
    }


def calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error over ten equal bins, weighted by their scans."""
    index = _bins(confidence)
    sums = np.bincount(index, confidence - correct, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def reliability(confidence: Floats, correct: NDArray[np.bool_]) -> list[Bin]:
    """Return the ten bins with their counts."""
    index = _bins(confidence)
    bins: list[Bin] = []
    for k in range(BINS):
        in_bin = index == k
        occupied = bool(in_bin.any())
        bins.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "n": int(in_bin.sum()),
                "mean_probability": float(confidence[in_bin].mean()) if occupied else None,
                "share_right": float(correct[in_bin].mean()) if occupied else None,
            }
        )
    return bins


def _bins(confidence: Floats) -> NDArray[np.int64]:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _logits(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, _FLOOR, 1.0))


def _logistic_line(probability: Floats, labels: NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """Return slope and intercept; None for both where one class is absent or the logits separate the classes."""
    logits = logit(np.clip(probability, _FLOOR, 1 - _FLOOR))
    if not labels.any() or labels.all() or logits[labels].min() > logits[~labels].max():
        return None, None
    model = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-8).fit(logits[:, None], labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])
