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
_MEDIASTINUM_MM = 25.0  # half its width
_HEART_LEFT, _HEART_RIGHT = 0.62, 0.33  # of half the lungs' width: together half the chest's (Danzer 1919), most left
_HEART_BACK_MM = 25.0  # behind the middle
_GREAT_VESSELS, _ARCH_TOP, _HEART_TOP = 0.2, 0.28, 0.45  # of the lungs' height: on the right; on the left, from and to
_DOME_MM = 8.0  # by which the right half of the diaphragm stands higher, at least: 10 to 20 are usual
_DIAPHRAGM = 0.07  # of a lung's largest slice, beside the heart: what it has lost tells that the diaphragm has come
_EDGE_MM = 6.0  # above a lung's end, where its slices are whole
_SOME, _HALF = 0.3, 0.5  # of the other lung's slice: enough to be its end, to be whole


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
    """Return large parts of tissue that are lung in the other one's image, or in this one's own higher up.

    From slice ``start`` on, off mediastinum and heart, and off what aerated lung surrounds. ``cavity``: uint8 [slices,
    rows, columns], 1 within the ribs.
    """
    there = chest.reflected(SIDES[1 - SIDES.index(side)], slice(None))
    if side == "right":
        there &= _below(there, round(_DOME_MM / chest.spacing_mm[0]))
    above = _above_diaphragm(there & _off_heart(chest, np.array([_HEART_LEFT * _half_width(chest)])))
    if side == "left":
        image = there & _off_heart(chest, _left_border(chest))
    else:
        image = there & _off_heart(chest, np.zeros(1)) | _beside_heart(chest) & above[:, None, None]
    image &= cavity > 0
    image[:start] = False
    image |= _continued(chest, side, there, above)
    image &= tissue & ~chest.hulls
    kernel = np.ones((5, 5), np.uint8)
    opened = np.stack([cv2.morphologyEx(slice_.view(np.uint8), cv2.MORPH_OPEN, kernel) for slice_ in image])
    return large_parts(opened > 0, least=1000 * _LEAST_ML / float(np.prod(chest.spacing_mm)))


def _below(image: Mask, slices: int) -> Mask:
    """Return what lies so many slices below each one; below the last there is more of the last."""
    slices = min(slices, len(image) - 1)
    return np.concatenate([image[slices:], np.repeat(image[-1:], slices, axis=0)])


def _above_diaphragm(there: Mask) -> NDArray[np.bool_]:
    """Tell which slices lie above the diaphragm, by what a lung has lost since its largest slice."""
    areas = np.count_nonzero(there, axis=(1, 2))
    largest = int(areas.argmax())
    lost = np.count_nonzero(there[largest] & ~there[largest:], axis=(1, 2))
    diaphragm = largest + int(np.argmax(np.append(lost, areas[largest] + 1) > _DIAPHRAGM * areas[largest]))
    above: NDArray[np.bool_] = np.arange(len(there)) < diaphragm
    return above


def _continued(chest: Chest, side: str, there: Mask, above: NDArray[np.bool_]) -> Mask:
    """Return a lung that ends above the diaphragm, continued down to it: its last slice, less what the other one loses.

    The heart's border is the lung's own that way. ``there``: the other one's image; ``above``: the diaphragm.
    """
    image = np.zeros_like(there)
    own = np.zeros_like(there)
    own[:, :, chest.columns(side)] = chest.lung(side)
    areas, areas_there = (np.count_nonzero(mask, axis=(1, 2)) for mask in (own, there))
    lung = np.flatnonzero((areas > _SOME * areas_there) & (areas_there > _SOME * areas_there.max()))
    if not len(lung):
        return image
    end = int(lung[-1]) + 1
    last = max(end - 1 - round(_EDGE_MM / chest.spacing_mm[0]), 0)
    if areas[end:].sum() < _HALF * areas_there[end:].sum() and areas[last] > _HALF * areas_there[last]:
        missing = last + np.flatnonzero(above[last:])
        image[missing] = own[last] & ~(there[last] & ~there[missing])
    return image


def _off_heart(chest: Chest, border_mm: NDArray[np.floating]) -> Mask:
    """Return the places, bool [slices, rows, columns], beside or behind the heart, and beside the mediastinum.

    ``border_mm``: the heart's, from the middle, one for all slices or one each.
    """
    away = np.abs(_to_the_left(chest))
    off = (away > border_mm[:, None, None]) | _behind_heart(chest)[:, None]
    return np.asarray(off & (away > _MEDIASTINUM_MM))


def _beside_heart(chest: Chest) -> Mask:
    """Return where the right lung lies beside the heart: the left one's image is narrower there.

    Bool [slices, rows, columns], from the great vessels down.
    """
    right = -_to_the_left(chest) > _HEART_RIGHT * _half_width(chest)
    low = (_height(chest) >= _GREAT_VESSELS)[:, None, None]
    return np.asarray(right & low & ~_behind_heart(chest)[:, None])


def _left_border(chest: Chest) -> NDArray[np.floating]:
    """Return how far great vessels and heart reach to the left in each slice, mm from the middle."""
    wide = _HEART_LEFT * _half_width(chest)
    border: NDArray[np.floating] = np.interp(_height(chest), (_ARCH_TOP, _HEART_TOP), (_MEDIASTINUM_MM, wide))
    return border


def _height(chest: Chest) -> NDArray[np.floating]:
    """Return where each slice lies in the lungs' height: 0 at the top, 1 at the lower end."""
    there = np.flatnonzero(chest.lungs.any(axis=(1, 2)))
    height: NDArray[np.floating] = (np.arange(len(chest.lungs)) - there[0]) / max(there[-1] - there[0], 1)
    return height


def _half_width(chest: Chest) -> float:
    return float(np.ptp(np.flatnonzero(chest.lungs.any(axis=(0, 1))))) / 2 * chest.spacing_mm[2]


def _to_the_left(chest: Chest) -> NDArray[np.floating]:
    """Return how far each column lies to the patient's left of the middle, mm."""
    left: NDArray[np.floating] = (np.arange(chest.lungs.shape[2]) - chest.middle[1]) * chest.spacing_mm[2]
    return left


def _behind_heart(chest: Chest) -> NDArray[np.bool_]:
    """Tell which rows lie behind it."""
    behind = (np.arange(chest.lungs.shape[1]) - chest.middle[0]) * chest.spacing_mm[1]
    return np.asarray(behind > _HEART_BACK_MM)
