"""Connected components and holes, by the fast packages or by scipy with the same results."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled

Mask = NDArray[np.bool_]

THRESHOLD_HU = -320
"""HU up to which a voxel counts as air; the limit of the tutorial that the paper cites (Zuidhof, Kaggle, 2017)."""


def label(mask: Mask) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Return the components of a volume that touch by faces, numbered from 1, and how many voxels each number has.

    ``mask``: bool [slices, rows, columns]. Number 0 is the rest.
    """
    try:
        import cc3d
    except ImportError:  # it is LGPL, and some sites must do without
        from scipy import ndimage

        labels: NDArray[np.integer] = ndimage.label(mask)[0]
    else:
        labels = cc3d.connected_components(mask, connectivity=6)
    counts = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    _count(labels.reshape(-1), counts)
    return labels, counts


@compiled
def _count(labels: NDArray[np.integer], counts: NDArray[np.int64]) -> None:
    """Count by runs, of which there are few: to add to one number again and again waits for itself each time."""
    start = 0
    for k in range(1, labels.size + 1):
        if k == labels.size or labels[k] != labels[start]:
            counts[labels[start]] += k - start
            start = k


def bounds(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds all of a mask; an empty one where there is nothing."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return tuple(box)


def large_parts(mask: Mask, *, least: float) -> Mask:
    """Return the components with more than ``least`` voxels."""
    if not mask.size:
        return mask
    labels, counts = label(mask)
    keep = counts > least
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def fill_holes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a slice of 0 and 1, uint8 [rows, columns], with everything that it encloses."""
    outside = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.asarray(outside[1:-1, 1:-1] != 2).view(np.uint8)
