"""Near-duplicates across the split: a training and a validation scan that look like one scan exported twice.

Copies with the same pixels are refused when training begins (``data.splits.require_distinct``). A scan that
was exported again with another slice distance, matrix or kernel has other pixels, and a name that tells no rule.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.schemas import TRAINING, VALIDATION

SIMILARITY = 0.8
"""Correlation from which a pair is an alarm; docs/results/robustness.md has the rates measured with it."""
_LEAST_DEVIATION = 0.25  # of a cell, in terms of the median cell's: nearly constant cells are not blown up
_TINY = 1e-30  # where cells do not vary at all

Floats = NDArray[np.float64]


class NearDuplicate(TypedDict):
    """One pair, with its correlation."""

    training: str
    validation: str
    similarity: float


class NearDuplicates(TypedDict):
    """Pairs as similar as ``threshold`` or more, the most similar first. ``highest``: over all ``n`` pairs."""

    n: int
    threshold: float
    highest: float
    pairs: list[NearDuplicate]


def find_near_duplicates(
    patients: pd.DataFrame, volumes: Mapping[str, NDArray[np.float32]], *, threshold: float = SIMILARITY
) -> NearDuplicates | None:
    """Compare every training scan with every validation scan.

    Args:
        patients: A row a scan with its split, index scan_id.
        volumes: ``coarse_volume`` by scan_id; a scan that is missing is not compared.
        threshold: Correlation from which a pair is reported.

    Returns:
        The pairs; None where a side has no scan to compare.
    """
    sides = [
        [str(scan_id) for scan_id in patients.index[patients["split"] == side] if scan_id in volumes]
        for side in (TRAINING, VALIDATION)
    ]
    training, validation = sides
    if not training or not validation:
        return None
    deviations = deviations_from_mean(np.stack([volumes[scan_id] for scan_id in training + validation]))
    similarity = deviations[: len(training)] @ deviations[len(training) :].T
    rows, columns = np.nonzero(similarity >= threshold)
    pairs: list[NearDuplicate] = [
        {"training": training[row], "validation": validation[column], "similarity": float(similarity[row, column])}
        for row, column in zip(rows, columns, strict=True)
    ]
    return {
        "n": similarity.size,
        "threshold": threshold,
        "highest": float(similarity.max()),
        "pairs": sorted(pairs, key=lambda pair: -pair["similarity"]),
    }


def deviations_from_mean(volumes: NDArray[np.float32]) -> Floats:
    """Return how each scan differs from the mean scan, in standard deviations of each cell, as a vector of length 1.

    All chests are alike; what a scan and its copy share beyond that is what differs from the cohort's mean.

    Args:
        volumes: float32 [scans, 12, 12, 12].

    Returns:
        float64 [scans, cells]; the product of two rows is their correlation.
    """
    cells = volumes.reshape(len(volumes), -1).astype(np.float64)
    deviation = cells.std(axis=0)
    least = max(_LEAST_DEVIATION * float(np.median(deviation)), _TINY)
    scaled = (cells - cells.mean(axis=0)) / np.maximum(deviation, least)
    norm = np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    return np.asarray(scaled / np.where(norm > 0, norm, 1))
