"""The lung mask at the scan's own pixels, from where the lungs were found on coarser ones."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

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


def refined(hu: NDArray[np.int16], coarse: Coarse, every: int) -> Mask:
    """Return the mask at the voxels of ``hu``. ``every``: slices of it for one of the coarse ones."""
    factor = hu.shape[1] // coarse.lungs.shape[1]
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
        air = cv2.resize(near[box], size, interpolation=cv2.INTER_NEAREST)
        air &= np.asarray(cv2.compare(image[fine], THRESHOLD_HU, cv2.CMP_LE))  # 255 where true
        part = air | (cv2.resize(dense[box] * np.uint8(255), size) > 127) if dense.any() else air
        filled = fill_holes(part)
        if domes[place].any():
            filled &= part | (1 - cv2.resize(_grown(domes[place])[box], size, interpolation=cv2.INTER_NEAREST))
        mask[index][fine] = _with_edge(filled, air, image[fine]).view(bool)
    return mask


def _between(slices: Mask) -> NDArray[np.uint8]:
    """Return each slice and, after it, what it and the next one hold together."""
    both = np.repeat(slices, 2, axis=0)
    both[1:-1:2] |= slices[1:]
    return both.view(np.uint8)


def _grown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(image, _AROUND), np.uint8)


def _with_edge(lungs: NDArray[np.uint8], air: NDArray[np.uint8], hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return a slice's lungs ending half way between the HU on either side of their edge, where air ends there.

    That is where an edge lies however blurred it is. The threshold, nearer to soft tissue, draws aerated lung too large
    and dense lung too small. What is filled stays: holes, and dense lung.
    """
    lung, beside = cv2.erode(hu, _AROUND), cv2.min(cv2.dilate(hu, _AROUND), _SOFT_TISSUE_HU)
    half_way = cv2.compare(cv2.add(hu, hu), cv2.add(lung, beside), cv2.CMP_LE)  # of 16 bits, saturated; 255 where true
    inner = air & ~np.asarray(cv2.erode(lungs, _AROUND))
    outer = _grown(lungs & air) & ~lungs & cv2.compare(hu, THRESHOLD_HU, cv2.CMP_GT)  # not the gas that was left out
    return np.asarray((lungs & (~inner | half_way)) | (outer & half_way), np.uint8)
