"""When to say nothing: a threshold on the probability of the named class, frozen on training scans."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ByClass(TypedDict):
    """Of the scans of one class; None where there is none to count. ``sensitivity_of_all``: undecided means missed."""

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


def threshold_for(confidence: Floats, share: float) -> float:
    """Return the highest threshold at or above which at least this share (0 to 1) of these scans is answered.

    ``confidence``: of training scans, from boosters that have not seen them.
    """
    ordered = np.sort(confidence)[::-1]
    wanted = int(np.ceil(round(share * len(ordered), 9)))
    return float(ordered[wanted - 1]) if wanted else float("inf")


def measure_undecided(
    probabilities: Floats, truth: NDArray[np.int64], classes: Sequence[str], *, threshold: float, wanted_share: float
) -> Undecided:
    """Return what the frozen threshold does to new scans. ``truth``: class indices, at least one scan."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    answered = confidence >= threshold
    by_class: dict[str, ByClass] = {}
    for k, name in enumerate(classes):
        of_class = truth == k
        n, given = int(of_class.sum()), int((of_class & answered).sum())
        hits = int((of_class & answered & right).sum())
        by_class[name] = {
            "n": n,
            "undecided": (n - given) / n if n else None,
            "sensitivity_among_answered": hits / given if given else None,
            "sensitivity_of_all": hits / n if n else None,
        }
    return {
        "threshold": threshold,
        "wanted_share": wanted_share,
        "n": len(truth),
        "share_answered": float(answered.mean()),
        "accuracy_among_answered": float(right[answered].mean()) if answered.any() else None,
        "classes": by_class,
        "risk": risk_by_share(confidence, right),
    }


def risk_by_share(confidence: Floats, right: NDArray[np.bool_]) -> list[list[float]]:
    """Return (share answered, error among them) as the threshold falls; scans of equal confidence come together."""
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order])
    last_of_equals = np.append(np.diff(confidence[order]) != 0, True)
    counts = np.arange(1, len(order) + 1)
    return [
        [float(k / len(order)), float(wrong / k)]
        for k, wrong in zip(counts[last_of_equals], errors[last_of_equals], strict=True)
    ]
