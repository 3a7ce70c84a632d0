"""Air that is no lung: trachea, main bronchi, stomach and bowel."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs.components import bounds, large_parts

_GAS_HU, _BELOW_LUNG_HU, _LEAST_GAS_HU = -930, 50, -985
_LUNG_BELOW_HU = -500
_ENCLOSED = 0.7  # share of what lies around the gas that is no lung
_LEAST_CM2, _LEAST_ML = 0.25, 4.0


def find_gas(
    hu: NDArray[np.int16], lungs: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return the part of a lung mask that is gas in a wall of its own, with its rim, bool [slices, rows, columns].

    Gas: emptier than the scan's lungs by 50 HU at least, and than -930 HU. In each slice, what lies around it must be
    tissue for seven tenths, so that emphysema and bullae stay; what is not larger than 4 ml in all slices together
    stays too. Where the lungs themselves are as empty as gas, nothing is found.
    """
    gas = np.zeros_like(lungs)
    some = (slice(None), slice(None, None, 2), slice(None, None, 2))
    limit = min(_GAS_HU, float(np.median(hu[some][lungs[some]])) - _BELOW_LUNG_HU) if lungs[some].any() else _GAS_HU
    if limit < _LEAST_GAS_HU or not lungs.any():
        return gas
    least = max(2, round(100 * _LEAST_CM2 / (spacing_mm[1] * spacing_mm[2])))
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        left, top, width, height = cv2.boundingRect(lungs[index].view(np.uint8))
        near = (index, slice(max(top - 5, 0), top + height + 5), slice(max(left - 5, 0), left + width + 5))
        _find_in_slice(hu[near], lungs[near], gas[near], limit=limit, least=least)
    if len(gas) > 1:
        view = bounds(gas)
        gas[view] = large_parts(gas[view], least=1000 * _LEAST_ML / float(np.prod(spacing_mm)))
    for index in np.flatnonzero(gas.any(axis=(1, 2))):
        gas[index] |= _thin_remains(lungs[index], gas[index])
    return gas


def _thin_remains(lungs: NDArray[np.bool_], gas: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what is left of walls and folds around the gas: parts of the mask beside it that an opening removes."""
    rest = (lungs & ~gas).view(np.uint8)
    thick = cv2.morphologyEx(rest, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    beside = cv2.dilate(gas.view(np.uint8), np.ones((7, 7), np.uint8))
    remains: NDArray[np.bool_] = (rest & ~thick & beside).view(bool)
    return remains


def _find_in_slice(
    hu: NDArray[np.int16], lungs: NDArray[np.bool_], out: NDArray[np.bool_], *, limit: float, least: int
) -> None:
    empty = ((cv2.blur(hu, (3, 3)) < limit) & lungs).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(empty, connectivity=4)
    cross = np.ones((3, 3), np.uint8)
    rim = cv2.dilate(empty, cross, iterations=2)
    for k in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1:
        left, top, width, height, _ = stats[k]
        window = (slice(max(top - 5, 0), top + height + 5), slice(max(left - 5, 0), left + width + 5))
        own = cv2.dilate((labels[window] == k).astype(np.uint8), cross)
        around = (cv2.dilate(own, cross, iterations=3) > 0) & (rim[window] == 0)
        lung = np.count_nonzero(around & (hu[window] < _LUNG_BELOW_HU))
        if lung <= (1 - _ENCLOSED) * np.count_nonzero(around):
            out[window] |= own > 0
