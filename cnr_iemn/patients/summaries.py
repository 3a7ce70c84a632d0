"""What simple measurements say of one scan, without a network: the inputs of the baselines."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.parts import part_of_slices
from cnr_iemn.registry import N_GROUPS

HISTOGRAM_EDGES = np.arange(-1000.0, 401.0, 50.0)
"""Edges of the 28 bins of the HU histogram."""
DENSE_HU = -700.0
"""Lung above this HU counts as dense: healthy parenchyma lies near -860 HU, ground glass near -450."""


@dataclass(frozen=True)
class ScanSummary:
    """Measurements within one scan's lung mask; NaN where the mask, or the part asked for, is empty.

    ``litres``: lung volume. ``mean_hu``: HU. ``histogram``: shares of lung in 50 HU bins from -1000 to 400, float64
    [28], sum 1. ``dense_share``: share of lung above -700 HU (0 to 1). ``dense_left``: share of that dense lung in the
    half with the higher columns, the patient's left in axial images; the other half has the rest. ``group_mean_hu``:
    mean HU in each of 20 groups of slices, float64 [20]. ``slice_area``: share of each image that is lung, float64
    [n_slices].
    """

    litres: float
    mean_hu: float
    histogram: NDArray[np.float64]
    dense_share: float
    dense_left: float
    group_mean_hu: NDArray[np.float64]
    slice_area: NDArray[np.float64]

    @property
    def dense_asymmetry(self) -> float:
        """Absolute difference of the left and right shares of dense lung, 0 (even) to 1 (one side only)."""
        return abs(2.0 * self.dense_left - 1.0)


def summarise_scan(
    grey: NDArray[np.uint8],
    lungs: NDArray[np.uint8] | NDArray[np.bool_],
    *,
    litres: float,
    window: tuple[float, float] = (-1000.0, 400.0),
) -> ScanSummary:
    """Measure one scan of the slice store.

    ``grey``: uint8 [n_slices, rows, columns], head first. ``lungs``: mask of that shape, 0 or 1. ``litres``: lung
    volume as the store knows it. ``window``: HU at grey 0 and 255, by which grey is turned back to HU (to within 3 HU;
    what was clipped stays at the limits). Left and right part at the middle between the mask's first and last column.
    """
    low, high = window
    hu = low + np.arange(256) * (high - low) / 255.0
    middle = _middle_column(lungs)
    counts = np.zeros((len(grey), 2, 256), dtype=np.int64)  # voxels by slice, side and grey level
    halves = slice(middle), slice(middle, None)
    for index, (image, mask) in enumerate(zip(grey, lungs, strict=True)):
        inside = np.asarray(mask, dtype=bool)
        for side, columns in enumerate(halves):
            counts[index, side] = np.bincount(image[:, columns][inside[:, columns]], minlength=256)
    by_slice = counts.sum(axis=1)
    levels = by_slice.sum(axis=0)
    dense = counts[:, :, hu > DENSE_HU].sum(axis=(0, 2))
    group = part_of_slices(len(grey), N_GROUPS)
    groups = np.array([by_slice[group == k].sum(axis=0) for k in range(N_GROUPS)])
    histogram, _ = np.histogram(np.clip(hu, HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]), HISTOGRAM_EDGES, weights=levels)
    return ScanSummary(
        litres=litres,
        mean_hu=float(_ratio(levels @ hu, levels.sum())),
        histogram=_ratio(histogram, levels.sum()),
        dense_share=float(_ratio(dense.sum(), levels.sum())),
        dense_left=float(_ratio(dense[1], dense.sum())),
        group_mean_hu=_ratio(groups @ hu, groups.sum(axis=1)),
        slice_area=by_slice.sum(axis=1) / float(grey.shape[1] * grey.shape[2]),
    )


def _middle_column(lungs: NDArray[np.uint8] | NDArray[np.bool_]) -> int:
    """Return the first column of the half with the higher ones."""
    columns = np.flatnonzero(np.any(lungs, axis=(0, 1)))
    return math.ceil((columns[0] + columns[-1]) / 2) if len(columns) else 0


def _ratio(part: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; nothing by nothing is NaN."""
    return np.asarray(part, dtype=np.float64) / np.where(np.asarray(whole) > 0, whole, np.nan)
