"""A scan as 12 x 12 x 12 mean grey values over the lungs: coarse enough to be the same after a re-export."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.data.slice_store import SliceStore

CELLS = 12
"""Along the height, the rows and the columns of the lungs."""
_TAIL = 0.02  # share of the lung beyond the box on either side: single pixels do not move it
_MARGIN = 0.1  # of the box on either side: the chest wall tells patients apart, too
_LEAST_AREA = 0.1  # of the largest lung area in a slice, where the height begins and ends

Floats = NDArray[np.float64]


def coarse_volume(grey: NDArray[np.uint8], lungs: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Return the mean grey value of each cell of a box around the lungs; None for a scan without lungs.

    Means over cells of a centimetre or two depend little on kernel, noise, matrix and slice distance, and a box around
    the lungs neither on the field of view nor on slices that are missing above or below them.

    Args:
        grey: uint8 [n_slices, rows, columns], head first.
        lungs: 0 or 1, of that shape.

    Returns:
        float32 [12, 12, 12]: height, rows, columns; 0 to 255, and 0 (air) beyond the image.
    """
    area = lungs.sum(axis=(1, 2), dtype=np.float64)
    if not area.any():
        return None
    silhouette = lungs.sum(axis=0, dtype=np.float64)
    height = _cell_weights(len(grey), *_height(area))
    rows, columns = (_cell_weights(len(sums), *_extent(sums)) for sums in (silhouette.sum(1), silhouette.sum(0)))
    in_plane = np.stack([rows @ image.astype(np.float64) @ columns.T for image in grey])
    return np.tensordot(height, in_plane, axes=1).astype(np.float32)


def coarse_volumes(store: SliceStore, scan_ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return ``coarse_volume`` of stored scans by scan_id, without those that have no lungs."""
    volumes = {scan_id: coarse_volume(store.grey(scan_id), store.lungs(scan_id)[:]) for scan_id in scan_ids}
    return {scan_id: volume for scan_id, volume in volumes.items() if volume is not None}


def _height(area: Floats) -> tuple[float, float]:
    """Return where the lung area rises above and falls below a tenth of its maximum, in slices, 0 the first's top.

    Between slices the area is interpolated, so that another slice distance gives the same place.
    """
    least = _LEAST_AREA * area.max()
    inside = np.flatnonzero(area > least)
    first, last = int(inside[0]), int(inside[-1])
    before = (area[first] - least) / (area[first] - area[first - 1]) if first > 0 else 0.5
    behind = (area[last] - least) / (area[last] - area[last + 1]) if last + 1 < len(area) else 0.5
    return first + 0.5 - before, last + 0.5 + behind


def _extent(lung: Floats) -> tuple[float, float]:
    """Return the box of the lungs along one side of the image, in pixels, 0 the outer edge of the first."""
    share = np.concatenate([[0.0], np.cumsum(lung) / lung.sum()])
    low, high = np.interp([_TAIL, 1 - _TAIL], share, np.arange(len(share)))
    margin = _MARGIN * (high - low)
    return float(low - margin), float(high + margin)


def _cell_weights(n: int, low: float, high: float) -> Floats:
    """Return the weights of ``n`` pixels in the cells from ``low`` to ``high``, float64 [12, n], rows of sum 1 or 0."""
    edges = np.linspace(low, high, CELLS + 1)[:, None]
    pixels = np.arange(n)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = np.maximum(overlap, 0)
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1))
