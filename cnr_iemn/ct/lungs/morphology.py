"""Components, holes, and the way to a coarse grid and back to the scan's own pixels."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs.parameters import SOFT_TISSUE_HU, THRESHOLD_HU

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

SQUARE = np.ones((3, 3), np.uint8)


def disc(radius: float) -> NDArray[np.uint8]:
    """Return a disc, the kernel of a morphological operation; ``radius`` in pixels, at least 1."""
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def label(mask: Mask) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Label the components of a volume that touch by faces.

    Args:
        mask: bool [slices, rows, columns].

    Returns:
        Labels of the same shape, 0 for the background, and the number of voxels of each label.
    """
    if not mask.size:
        return np.zeros(mask.shape, np.uint32), np.zeros(1, np.int64)
    try:
        import cc3d
    except ImportError:  # cc3d is LGPL, and some sites must do without it
        from scipy import ndimage

        labels: NDArray[np.integer] = ndimage.label(mask)[0]
    else:
        labels = cc3d.connected_components(mask, connectivity=6)
    counts = np.bincount(labels[mask], minlength=1)
    counts[0] = mask.size - counts.sum()
    return labels, counts


def large_components(mask: Mask, min_voxels: float) -> Mask:
    """Return the components with more than ``min_voxels`` voxels."""
    labels, counts = label(mask)
    large = counts > min_voxels
    large[0] = False
    return np.asarray(large[labels])


def map_slices(mask: Mask, function: Callable[[NDArray[np.uint8]], NDArray[np.generic]]) -> Mask:
    """Apply a function of 0 and 1, uint8 [rows, columns], to each slice that is not empty."""
    result = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        result[index] = function(np.ascontiguousarray(mask[index]).view(np.uint8))
    return result


def fill_holes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill everything that a slice encloses; uint8 [rows, columns] of 0 and 1."""
    outside = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.asarray(outside[1:-1, 1:-1] != 2).view(np.uint8)


def downsample(hu: NDArray[np.int16], step: int, factor: int) -> NDArray[np.int16]:
    """Return every ``step``-th slice with means over ``factor`` x ``factor`` pixels; the remainder is dropped."""
    rows, columns = (size // factor for size in hu.shape[1:])
    images = hu[::step, : rows * factor, : columns * factor]
    return np.stack([cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA) for image in images])


def refine(hu: NDArray[np.int16], lungs: Mask, dense: Mask, excluded: Mask, step: int, factor: int) -> Mask:
    """Draw a mask on the coarse grid of ``downsample`` on the scan's own pixels.

    Args:
        hu: int16 [slices, rows, columns], HU.
        lungs: Aerated lung with its holes filled, bool on the coarse grid.
        dense: Consolidation and fluid, likewise.
        excluded: Airways, bowel and diaphragm, likewise.
        step: Slices of ``hu`` per coarse slice.
        factor: Pixels of ``hu`` per coarse pixel, along each axis.

    Returns:
        bool, shape of ``hu``.
    """
    mask = np.zeros(hu.shape, bool)
    rims, wide = (
        np.stack([cv2.dilate(image.view(np.uint8), SQUARE) for image in coarse]) for coarse in (excluded, lungs)
    )
    for index, image in enumerate(hu):
        lower, upper = index // step, min(-(-index // step), len(lungs) - 1)  # one coarse slice or two
        near = (wide[lower] | wide[upper]) & ~(excluded[lower] | excluded[upper]).view(np.uint8)
        added = dense[min((index + step // 2) // step, len(dense) - 1)].view(np.uint8)
        left, top, width, height = cv2.boundingRect(near | added)
        if width == 0:
            continue
        box = (slice(top, top + height), slice(left, left + width))
        fine = tuple(slice(side.start * factor, side.stop * factor) for side in box)
        size = (width * factor, height * factor)
        pixels = np.ascontiguousarray(image[fine])
        air = cv2.resize(near[box], size, interpolation=cv2.INTER_NEAREST) & (pixels <= THRESHOLD_HU).view(np.uint8)
        solid = air | (cv2.resize(added[box] * np.uint8(255), size) > 127).view(np.uint8)
        never = cv2.resize(rims[lower][box] | rims[upper][box], size, interpolation=cv2.INTER_NEAREST)
        mask[index][fine] = _halfway_edge(solid | (fill_holes(solid) & ~never), air, pixels)
    return mask


def _halfway_edge(lungs: NDArray[np.uint8], air: NDArray[np.uint8], hu: NDArray[np.int16]) -> Mask:
    """Move the edge of aerated lung to half way between the HU on either side, where an edge lies however blurred.

    The threshold, nearer to soft tissue, draws aerated lung too large and dense lung too small. Filled holes and
    dense lung stay. ``lungs``, ``air``: 0 and 1, [rows, columns], the shape of ``hu``.
    """
    bright = np.minimum(cv2.dilate(hu, SQUARE), np.int16(SOFT_TISSUE_HU))
    halfway = (cv2.add(hu, hu) <= cv2.add(cv2.erode(hu, SQUARE), bright)).view(np.uint8)  # sums saturate
    inner = lungs & (halfway | cv2.erode(lungs, SQUARE) | ~air)
    outside = (hu > THRESHOLD_HU).view(np.uint8) & ~lungs  # excluded gas stays outside
    return np.asarray(inner | (cv2.dilate(lungs & air, SQUARE) & outside & halfway)).view(bool)
