"""A class that must not be missed: a threshold on its probability, fixed on training scans, judged on others."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.patients.intervals import Estimate, wilson
from cnr_iemn.patients.undecided import threshold_for
from cnr_iemn.registry import SPGC_CLASSES, THRESHOLD_CLASS

Floats = NDArray[np.float64]
AUTO = "auto"


class OperatingPoint(TypedDict):
    """A scan counts as ``label`` from a probability of ``threshold`` on, whatever the other classes have.

    ``wanted_sensitivity``: that the threshold was to reach on the training scans; ``training_sensitivity`` and
    ``training_specificity``: what it has there, fractions 0 to 1. ``sensitivity`` and ``specificity``: on the
    validation scans, with Wilson's intervals.
    """

    label: str
    threshold: float
    wanted_sensitivity: float
    training_sensitivity: float
    training_specificity: float
    sensitivity: Estimate
    specificity: Estimate


def threshold_class(wanted: str | None, classes: Sequence[str]) -> str | None:
    """Return the class whose threshold is sought; None for none.

    ``auto``: COVID-19 in a study of the SPGC classes, else none. Raises ConfigurationError for an unknown class.
    """
    if wanted == AUTO:
        return THRESHOLD_CLASS if tuple(classes) == SPGC_CLASSES else None
    if wanted is not None and wanted not in classes:
        raise ConfigurationError(
            f"threshold_class={wanted} is no class of this study. Give one of {', '.join(classes)}, auto, or null."
        )
    return wanted


def operating_point(
    within_training: Floats,
    training_truth: NDArray[np.int64],
    told: Floats,
    truth: NDArray[np.int64],
    classes: Sequence[str],
    *,
    label: str,
    sensitivity: float,
) -> OperatingPoint:
    """Return the highest threshold with at least this sensitivity on the training scans, and its validation figures.

    ``within_training``: each training scan's probabilities from what has not learnt from its patient, float64 [scans,
    classes]; ``told``: those of the validation scans. ``training_truth``, ``truth``: class indices. ``sensitivity``: 0
    to 1.
    """
    k = classes.index(label)
    threshold = threshold_for(within_training[training_truth == k, k], sensitivity)
    known, known_others = _called(within_training[:, k], training_truth == k, threshold)
    found, found_others = _called(told[:, k], truth == k, threshold)
    return {
        "label": label,
        "threshold": threshold,
        "wanted_sensitivity": sensitivity,
        "training_sensitivity": float(known.mean()),
        "training_specificity": float(1 - known_others.mean()),
        "sensitivity": wilson(int(found.sum()), len(found)),
        "specificity": wilson(int((~found_others).sum()), len(found_others)),
    }


def _called(
    probability: Floats, of_class: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each scan of the class, and each of the others, is called so."""
    called = probability >= threshold
    return called[of_class], called[~of_class]
