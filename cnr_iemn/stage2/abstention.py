"""Abstention: below a probability threshold, fixed on the training scans, a prediction is undecided."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ByClass(TypedDict):
    """The scans of one class; None where there is none. ``sensitivity_of_all``: counts undecided scans as missed."""

    n: int
    undecided: float | None
    sensitivity_among_answered: float | None
    sensitivity_of_all: float | None


class Undecided(TypedDict):
    """``share_answered`` and ``accuracy_among_answered`` at the threshold; ``risk``: pairs of share answered, error."""

    threshold: float
    wanted_share: float
    n: int
    share_answered: float
    accuracy_among_answered: float | None
    classes: dict[str, ByClass]
    risk: list[list[float]]


def threshold_for(confidence: Floats, share: float, weights: Floats | None = None) -> float:
    """Return the highest threshold that at least this share of new scans reaches, on average.

    Split conformal prediction (Papadopoulos et al., ECML 2002): the new scan counts as one more, below all others.
    Without it the share would be missed by one percentage point at 90 scans and by four at 20.

    Args:
        confidence: Of training scans, from a stage 2 that has not seen them, float64 [scans], at least one.
        share: Above 0, up to 1.
        weights: Of the scans, float64 [scans]; None for equal weights.

    Returns:
        The threshold, or the lowest confidence where there are too few scans for this share.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(weights[order]) / (weights.sum() + weights.mean())
    positions = np.flatnonzero(shares >= share - 1e-9)
    return float(confidence[order[positions[0] if len(positions) else -1]])


def measure_undecided(
    probabilities: Floats, truth: NDArray[np.int64], classes: Sequence[str], *, threshold: float, wanted_share: float
) -> Undecided:
    """Measure the threshold on new scans. ``truth``: class indices, at least one scan."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    decided = confidence >= threshold
    by_class: dict[str, ByClass] = {}
    for k, name in enumerate(classes):
        in_class = truth == k
        n, n_decided = int(in_class.sum()), int((in_class & decided).sum())
        hits = int((in_class & decided & correct).sum())
        by_class[name] = {
            "n": n,
            "undecided": (n - n_decided) / n if n else None,
            "sensitivity_among_answered": hits / n_decided if n_decided else None,
            "sensitivity_of_all": hits / n if n else None,
        }
    return {
        "threshold": threshold,
        "wanted_share": wanted_share,
        "n": len(truth),
        "share_answered": float(decided.mean()),
        "accuracy_among_answered": float(correct[decided].mean()) if decided.any() else None,
        "classes": by_class,
        "risk": risk_by_share(confidence, correct),
    }


def risk_by_share(confidence: Floats, correct: NDArray[np.bool_]) -> list[list[float]]:
    """Return (share answered, error among them) as the threshold falls; scans of equal confidence make one step."""
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~correct[order])
    run_ends = np.append(np.diff(confidence[order]) != 0, True)
    counts = np.arange(1, len(order) + 1)
    return [
        [float(k / len(order)), float(n_errors / k)]
        for k, n_errors in zip(counts[run_ends], errors[run_ends], strict=True)
    ]
