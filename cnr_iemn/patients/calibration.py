"""Do the booster's probabilities mean what they say? A temperature, and how well it serves new scans."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit, softmax
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]
BINS = 10
_SIMULATIONS = 2000
_FLOOR = 1e-7  # below this a probability of float32 arithmetic is zero, whose logarithm would rule everything


class Bin(TypedDict):
    """Scans whose probability of the named class lies in one tenth; None where there is none."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    share_right: float | None


class Calibration(TypedDict):
    """How probabilities fit what came true, on scans that neither trained the booster nor chose the temperature.

    ``ece``: expected calibration error of the named class over ten bins; ``ece_null``: 5%, 50% and 95% of what well
    calibrated probabilities would have with this many scans. ``slope`` and ``intercept``: of the logistic regression
    of each class on the logit of its probability; 1 and 0 for perfect ones, None where a class is all or nothing.
    """

    n: int
    brier: float
    log_loss: float
    ece: float
    ece_null: list[float]
    slope: dict[str, float | None]
    intercept: dict[str, float | None]
    reliability: list[Bin]


def temperature_of(probabilities: Floats, truth: NDArray[np.int64]) -> float:
    """Return the temperature with the least log-loss (Guo et al., ICML 2017); above 1: the booster is too sure.

    ``probabilities``: float64 [scans, classes], of boosters that have not seen these scans. ``truth``: class indices.
    """
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(log_p[np.arange(len(truth)), truth].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def with_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return the probabilities at a temperature, float64 [scans, classes]; the most probable class stays."""
    return np.asarray(softmax(_logits(probabilities) / temperature, axis=1))


def measure_calibration(
    probabilities: Floats, truth: NDArray[np.int64], classes: tuple[str, ...], *, seed: int = 0
) -> Calibration:
    """Return how the probabilities fit the classes. ``truth``: class indices, at least one scan."""
    rows = np.arange(len(truth))
    one_hot = np.eye(probabilities.shape[1])[truth]
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    rng = np.random.default_rng(seed)
    # of the named class alone: it is right with its own probability, if the probabilities are
    null = [calibration_error(confidence, rng.random(len(truth)) < confidence) for _ in range(_SIMULATIONS)]
    lines = {name: _logistic_line(probabilities[:, k], truth == k) for k, name in enumerate(classes)}
    return {
        "n": len(truth),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "log_loss": float(-np.log(np.clip(probabilities[rows, truth], _FLOOR, 1)).mean()),
        "ece": calibration_error(confidence, right),
        "ece_null": [float(value) for value in np.quantile(null, [0.05, 0.5, 0.95])],
        "slope": {name: line[0] for name, line in lines.items()},
        "intercept": {name: line[1] for name, line in lines.items()},
        "reliability": reliability(confidence, right),
    }


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Return the mean distance of probability and share right over ten equal bins, weighted by their scans."""
    index = _bins(confidence)
    sums = np.bincount(index, confidence - right, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[Bin]:
    """Return the ten bins with their counts."""
    index = _bins(confidence)
    found: list[Bin] = []
    for k in range(BINS):
        chosen = index == k
        known = bool(chosen.any())
        found.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "n": int(chosen.sum()),
                "mean_probability": float(confidence[chosen].mean()) if known else None,
                "share_right": float(right[chosen].mean()) if known else None,
            }
        )
    return found


def _bins(confidence: Floats) -> NDArray[np.int64]:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _logits(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, _FLOOR, 1.0))


def _logistic_line(probability: Floats, true: NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """Return slope and intercept; None for both where one class is absent or the logits separate the classes."""
    logits = logit(np.clip(probability, _FLOOR, 1 - _FLOOR))
    if not true.any() or true.all() or logits[true].min() > logits[~true].max():
        return None, None
    fitted = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-8).fit(logits[:, None], true)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
