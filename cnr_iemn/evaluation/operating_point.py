"""Decision threshold for one class: set on training scans, measured on validation scans."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.constants import SPGC_CLASSES, THRESHOLD_CLASS
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage2.abstention import threshold_for
from cnr_iemn.stage2.calibration import CalibrationScans
from cnr_iemn.statistics.confidence_intervals import Estimate, wilson

Floats = NDArray[np.float64]
AUTO = "auto"


class OperatingPoint(TypedDict):
    """A scan counts as ``label`` if that class's probability is at least ``threshold``.

    ``target_sensitivity``: of the threshold on new scans. ``training_*``: on the ``learnt_on`` training scans that set
    the threshold, ``optimistic`` where networks were trained on some of them. ``sensitivity`` and ``specificity``: on
    the validation scans, with Wilson's intervals.
    """

    label: str
    threshold: float
    target_sensitivity: float
    learnt_on: int
    optimistic: bool
    training_sensitivity: float
    training_specificity: float
    sensitivity: Estimate
    specificity: Estimate


def threshold_class(setting: str | None, classes: Sequence[str]) -> str | None:
    """Return the class that gets a threshold; None for none.

    ``auto``: COVID-19 in a study of the SPGC classes, else none. Raises ConfigurationError for an unknown class.
    """
    if setting == AUTO:
        return THRESHOLD_CLASS if tuple(classes) == SPGC_CLASSES else None
    if setting is not None and setting not in classes:
        raise ConfigurationError(
            f"threshold_class={setting} is not a class of this study. Give one of {', '.join(classes)}, auto, or null."
        )
    return setting


def operating_point(
    cross_validated: Floats,
    training_truth: NDArray[np.int64],
    probabilities: Floats,
    truth: NDArray[np.int64],
    classes: Sequence[str],
    *,
    scans: CalibrationScans,
    label: str,
    sensitivity: float,
) -> OperatingPoint:
    """Return the highest threshold that aims at a sensitivity on new scans, with its metrics on the validation scans.

    Args:
        cross_validated: Probabilities of the training scans, each predicted without its patient, float64 [scans,
            classes].
        training_truth: Class index of each training scan.
        probabilities: Of the validation scans, float64 [scans, classes].
        truth: Class index of each validation scan.
        classes: In the order of the columns.
        scans: The training scans that set the threshold.
        label: The class.
        sensitivity: The target, above 0 and up to 1.
    """
    k = classes.index(label)
    values, in_class = cross_validated[scans.rows, k], training_truth[scans.rows] == k
    threshold = threshold_for(values[in_class], sensitivity)
    positive, held_out_class = probabilities[:, k] >= threshold, truth == k
    return {
        "label": label,
        "threshold": threshold,
        "target_sensitivity": sensitivity,
        "learnt_on": len(values),
        "optimistic": scans.optimistic,
        "training_sensitivity": float((values >= threshold)[in_class].mean()),
        "training_specificity": float((values < threshold)[~in_class].mean()),
        "sensitivity": wilson(int(positive[held_out_class].sum()), int(held_out_class.sum())),
        "specificity": wilson(int((~positive)[~held_out_class].sum()), int((~held_out_class).sum())),
    }
