"""What one lung lacks, taken from the mirror image of the other. A guess, and told as one."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs.chest import SIDES, Chest
from cnr_iemn.ct.lungs.components import Mask, large_parts
from cnr_iemn.ct.lungs.rays import Codes

_LARGE_SHARE, _SMALL_SHARE = 0.06, 0.4  # recovered, of the lung itself; aerated, of the other lung
_SHORTER_MM, _OVERLAP_MM = 50.0, 20.0
_LEAST_ML = 20.0
_COLUMN_MM, _HEART_WIDTH, _HEART_BACK_MM = 28.0, 0.65, 25.0  # half width; share of the half width; behind the middle


def mirrored_sides(chest: Chest, recovered: Mask) -> dict[str, int]:
    """Return the sides that lack much, each with the first slice from which on to look for it in the other's image.

    From the first where much was recovered already or the lung is small; from its lower end where it is much shorter.
    """
    step = chest.spacing_mm[0]
    areas = {side: chest.lung(side).sum(axis=(1, 2)) for side in SIDES}
    sides = {}
    for side, other in (SIDES, SIDES[::-1]):
        own, there = int(areas[side].sum()), int(areas[other].sum())
        found = int(np.count_nonzero(recovered[:, :, chest.columns(side)]))
        if found > _LARGE_SHARE * own or own < _SMALL_SHARE * there:
            sides[side] = 0
        elif own and there:
            end, end_there = (_lower_end(areas[name]) for name in (side, other))
            if (end_there - end) * step > _SHORTER_MM:
                sides[side] = max(end - round(_OVERLAP_MM / step), 0)
    return sides


def _lower_end(areas: NDArray[np.integer]) -> int:
    return int(np.flatnonzero(areas > 0.01 * areas.max())[-1])


def mirror_image(chest: Chest, side: str, start: int, cavity: Codes, tissue: Mask) -> Mask:
    """Return the large parts of the other lung's image that are tissue within the ribs, from slice ``start`` on.

    ``cavity``: uint8 [slices, rows, columns], 1 within the ribs. Off the middle and, on the left, off the heart.
    """
    other = SIDES[1 - SIDES.index(side)]
    image = chest.reflected(other, slice(None)) & tissue & (cavity > 0) & ~chest.lungs
    image &= _beside_mediastinum(chest, heart=side == "left")
    image[:start] = False
    kernel = np.ones((5, 5), np.uint8)
    opened = np.stack([cv2.morphologyEx(slice_.view(np.uint8), cv2.MORPH_OPEN, kernel) for slice_ in image])
    return large_parts(opened > 0, least=1000 * _LEAST_ML / float(np.prod(chest.spacing_mm)))


def _beside_mediastinum(chest: Chest, *, heart: bool) -> Mask:
    """Return the places [1, rows, columns] that are beside the mediastinum."""
    _, row_mm, column_mm = chest.spacing_mm
    _, rows, columns = chest.lungs.shape
    away = np.abs(np.arange(columns) - chest.middle[1])[None, None] * column_mm
    beside: Mask = np.broadcast_to(away > _COLUMN_MM, (1, rows, columns))
    if not heart:
        return beside
    half_width = float(np.ptp(np.flatnonzero(chest.lungs.any(axis=(0, 1))))) / 2 * column_mm
    behind = ((np.arange(rows) - chest.middle[0]) * row_mm > _HEART_BACK_MM)[None, :, None]
    off_heart: Mask = beside & ((away > _HEART_WIDTH * half_width) | behind)
    return off_heart
