"""The lung mask at the scan's own pixels, from where the lungs were found on coarser ones."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled
from cnr_iemn.ct.lungs.components import THRESHOLD_HU, Mask, fill_holes

_AROUND = np.ones((3, 3), np.uint8)
_SOFT_TISSUE_HU = 60
"""Bone is denser, but between it and lung lies the pleura."""


@dataclass(frozen=True)
class Coarse:
    """Where the lungs are, on every so many slices and pixels that may be larger; bool [slices, rows, columns].

    ``lungs``: aerated lung, holes filled; ``gas``: air around which none of that may lie; ``added``: dense lung;
    ``domes``: of the holes what is none.
    """

    lungs: Mask
    gas: Mask
    added: Mask
    domes: Mask


def refined(hu: NDArray[np.int16], coarse: Coarse, every: int, factor: int) -> Mask:
    """Return the mask at the voxels of ``hu``.

    ``every``, ``factor``: slices of it, and pixels along a line, for one of the coarse ones.
    """
    mask = np.zeros(hu.shape, bool)
    lungs, gas, domes = (_between(part) for part in (coarse.lungs, coarse.gas, coarse.domes))
    for index, image in enumerate(hu):
        place = 2 * (index // every) + (index % every > 0)
        near = _grown(lungs[place]) & ~gas[place]
        dense = coarse.added[min((index + every // 2) // every, len(coarse.added) - 1)].view(np.uint8)
        left, top, width, height = cv2.boundingRect(near | dense)
        if width == 0:
            continue
        box = (slice(top, top + height), slice(left, left + width))
        fine = tuple(slice(part.start * factor, part.stop * factor) for part in box)
        size = (width * factor, height * factor)
        air = np.empty(size[::-1], np.uint8)
        _find_air(near[box].copy(), image, fine[0].start, fine[1].start, factor, air)
        part = air | (cv2.resize(dense[box] * np.uint8(255), size) > 127) if dense.any() else air
        filled = fill_holes(part)
        if domes[place].any():
            filled &= part | (1 - cv2.resize(_grown(domes[place])[box], size, interpolation=cv2.INTER_NEAREST))
        _draw(filled, air, image, fine[0].start, fine[1].start, mask[index])
    return mask


def _between(slices: Mask) -> NDArray[np.uint8]:
    """Return each slice and, after it, what it and the next one hold together."""
    both = np.repeat(slices, 2, axis=0)
    both[1:-1:2] |= slices[1:]
    return both.view(np.uint8)


def _grown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(image, _AROUND), np.uint8)


@compiled
def _find_air(
    near: NDArray[np.uint8], hu: NDArray[np.int16], top: int, left: int, factor: int, air: NDArray[np.uint8]
) -> None:
    """Write 0 and 1: where air is within the coarser ``near``, the part from ``top`` and ``left`` of the slice."""
    rows, columns = near.shape
    line = np.empty(columns * factor, np.uint8)
    for row in range(rows):
        for column in range(columns):
            for k in range(factor):
                line[column * factor + k] = near[row, column]
        for k in range(factor):
            here = hu[top + row * factor + k, left : left + line.size]
            out = air[row * factor + k]
            for column in range(line.size):
                out[column] = line[column] & np.uint8(here[column] <= THRESHOLD_HU)


@compiled
def _draw(
    lungs: NDArray[np.uint8], air: NDArray[np.uint8], hu: NDArray[np.int16], top: int, left: int, mask: Mask
) -> None:
    """Draw a slice's lungs to half way between the HU on either side of their edge, where air ends there.

    That is where an edge lies however blurred it is. The threshold, nearer to soft tissue, draws aerated lung too large
    and dense lung too small. What is filled stays: holes, and dense lung. ``lungs``, ``air``: 0 and 1, the part from
    ``top`` and ``left`` of the slice's ``hu`` and ``mask``.
    """
    rows, columns = lungs.shape
    across = slice(left, left + columns)
    low, high = np.empty(columns + 2, np.int16), np.empty(columns + 2, np.int16)  # of three rows, and a pixel beside
    all_lung, some_air = np.empty(columns + 2, np.uint8), np.empty(columns + 2, np.uint8)
    for row in range(rows):
        above, below = max(row - 1, 0), min(row + 1, rows - 1)
        hu0, hu1, hu2 = hu[top + above, across], hu[top + row, across], hu[top + below, across]
        lung0, lung1, lung2 = lungs[above], lungs[row], lungs[below]
        air0, air1, air2 = air[above], air[row], air[below]
        for k in range(columns):
            low[k + 1], high[k + 1] = min(hu0[k], hu1[k], hu2[k]), max(hu0[k], hu1[k], hu2[k])
            all_lung[k + 1] = lung0[k] & lung1[k] & lung2[k]
            some_air[k + 1] = (lung0[k] & air0[k]) | (lung1[k] & air1[k]) | (lung2[k] & air2[k])
        low[0], low[-1], high[0], high[-1] = low[1], low[-2], high[1], high[-2]
        all_lung[0], all_lung[-1], some_air[0], some_air[-1] = all_lung[1], all_lung[-2], some_air[1], some_air[-2]
        drawn = mask[top + row, across]
        for k in range(columns):
            lung, beside = min(low[k], low[k + 1], low[k + 2]), max(high[k], high[k + 1], high[k + 2])
            half_way = 2 * int(hu1[k]) <= int(lung) + min(int(beside), _SOFT_TISSUE_HU)
            inner = air1[k] & ~(all_lung[k] & all_lung[k + 1] & all_lung[k + 2])
            outer = (some_air[k] | some_air[k + 1] | some_air[k + 2]) & ~lung1[k]
            outer &= hu1[k] > THRESHOLD_HU  # not the gas that was left out
            drawn[k] = (lung1[k] & (~inner | half_way)) | (outer & half_way)
