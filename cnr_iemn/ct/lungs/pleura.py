"""Lung that threshold rules lose: consolidation and fluid between aerated lung and the pleura.

Their density is that of muscle, so only the shape tells: the chest wall is where the ribs are, less the gap at which
healthy lung lies from them, and what lies between aerated lung and that wall belongs to the lungs.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnr_iemn.ct.lungs.chest import SIDES, Chest
from cnr_iemn.ct.lungs.components import THRESHOLD_HU, Mask
from cnr_iemn.ct.lungs.mirror import mirror_image, mirrored_sides
from cnr_iemn.ct.lungs.rays import (
    BACK,
    DEGREES,
    LEFT,
    N_RAYS,
    Codes,
    Fan,
    Flags,
    Numbers,
    Spacing,
    chest_wall,
    paint,
    smooth,
)

TISSUE_HU = 170
"""Less: soft tissue and fluid, in means over a few pixels."""

_SHALLOW_MM, _HOLLOW_MM, _DEEP_MM = 4.0, 8.0, 16.0  # of a dent; in the lung's outline; without that
_LEAST_DEEP_CM2, _DEPTH_PER_LUNG = 4.0, 2.0
_SPINE, _BESIDE_SPINE, _STERNUM = np.cos(np.radians((15, 35, 25)))
_GAP_MM, _GAP_DEGREES, _NARROW_DEGREES = 60.0, 40.0, 6.0
_RIM_MM, _NOTCH_MM = 15.0, 14.0
_INWARDS, _IN_FRONT, _OUTWARDS = -0.1, -0.1, 0.2  # cosines with the direction away from the midline
_APEX_MM = 50.0
_SIDES_DIFFER_MM = 8.0


@dataclass(frozen=True)
class Recovered:
    """``mask``: what was found, bool [slices, rows, columns]; ``mirrored``: sides partly the other's image."""

    mask: Mask
    mirrored: tuple[str, ...] = ()


def recover_pleura(hu: NDArray[np.int16], lungs: Mask, spacing_mm: Spacing) -> Recovered:
    """Return tissue that belongs to the lungs and that ``lungs``, their aerated part, lacks.

    ``hu``: [slices, rows, columns], head first, rows from front to back and columns from the patient's right to the
    left, or both the other way round; ``lungs``: bool of the same shape, without trachea. Nothing is found without
    bones beside them.
    """
    chest = Chest.of(hu, lungs, spacing_mm)
    if chest is None:
        return Recovered(np.zeros(lungs.shape, bool))
    if chest.upside_down:
        turned = Chest.of(hu[:, ::-1, ::-1], lungs[:, ::-1, ::-1], spacing_mm)
        if turned is not None and not turned.upside_down:
            found = _recover(turned, _is_tissue(hu[:, ::-1, ::-1]))
            return Recovered(np.ascontiguousarray(found.mask[:, ::-1, ::-1]), found.mirrored)
    return _recover(chest, _is_tissue(hu))


def _is_tissue(hu: NDArray[np.int16]) -> Mask:
    tissue: Mask = (hu > THRESHOLD_HU) & (hu < TISSUE_HU)
    return tissue


def _recover(chest: Chest, tissue: Mask) -> Recovered:
    found = np.zeros(chest.lungs.shape, np.uint8)
    fan = chest.from_middle()
    wall, healthy = chest_wall(fan, fan, chest.spacing_mm[0])
    away = (_SPINE > BACK) & (_STERNUM > -BACK)
    dents = _dents(fan, wall, healthy, fan.inside, away, chest.spacing_mm[0])
    paint(fan, dents, fan.last, wall, found, chest.spacing_mm)
    _bridge_between_dents(fan, wall, dents, found, chest.spacing_mm)
    _bridge(fan, wall, found, chest.spacing_mm)
    _close_outline(chest, fan, wall, found)
    _fill_from_within(chest, found)
    mirrored = []
    cavity = np.zeros_like(found)
    for side, start in mirrored_sides(chest, found > 0).items():
        if not cavity.any():
            known = np.isfinite(wall)
            closed = np.where(known, wall, smooth(wall, known, chest.spacing_mm[0], mm=20, degrees=15))
            paint(fan, np.isfinite(closed), np.zeros_like(wall), closed, cavity, chest.spacing_mm)
        image = mirror_image(chest, side, start, cavity, tissue)
        mirrored += [side] if (image > found).any() else []
        found |= image
    return Recovered((found > 0) & tissue & ~chest.lungs, tuple(mirrored))


def _dents(fan: Fan, wall: Numbers, healthy: Flags, lung_mm: Numbers, sector: Flags, step_mm: float) -> Flags:
    """Return the rays that leave the lungs well before the chest wall.

    Shallow ones count where they surround deep ones or a hollow in the lung's outline, for the ribs tell the wall to a
    few mm only; a dent much deeper than the lung before it is another organ. ``lung_mm``: lung on the ray; ``sector``:
    where to look.
    """
    depth = wall - fan.last
    dent = fan.crosses & sector & (depth > _SHALLOW_MM) & (depth < _DEPTH_PER_LUNG * lung_mm)
    hollow = (fan.hull - fan.last > _SHALLOW_MM) & (depth > _HOLLOW_MM)
    beside = smooth(fan.last, fan.crosses & (depth < _HOLLOW_MM), step_mm, mm=10, degrees=15)
    bulge = beside - fan.last < _SHALLOW_MM  # the lung goes on as beside the dent: it is the wall that stands out
    deep = dent & ~healthy & (hollow | ((depth > _DEEP_MM) & ~bulge))
    area = np.where(deep, np.nan_to_num(wall) * np.radians(DEGREES) * step_mm / 100, 0)
    labels, n = ndimage.label(dent)
    large = np.bincount(labels.ravel(), weights=area.ravel(), minlength=n + 1) > _LEAST_DEEP_CM2
    large[0] = False
    found: Flags = large[labels]
    return found


def _bridge(fan: Fan, wall: Numbers, out: Codes, spacing_mm: Spacing) -> None:
    """Fill rays without lung between rays that have it, above and below or to both sides, but not in front.

    There the heart lies against the chest wall. As with dents, no gap is much deeper than the lung beside it.
    """
    high = np.ones((2 * round(_GAP_MM / spacing_mm[0] / 2) + 1, 1), bool)
    wide = np.ones((1, 2 * round(_GAP_DEGREES / DEGREES / 2) + 1), bool)
    between = ndimage.binary_closing(fan.crosses, high) | ndimage.binary_closing(fan.crosses, wide)
    some = fan.inside > 0  # a recess of a few mm beside the gap counts: it tells that the gap is no deeper
    start = smooth(fan.first, some, spacing_mm[0], mm=25, degrees=15)
    lung_mm = smooth(fan.inside, some, spacing_mm[0], mm=25, degrees=15)
    between &= wall - start < _DEPTH_PER_LUNG * lung_mm
    gap = between & (fan.inside == 0) & (BACK > -0.3) & (_BESIDE_SPINE > BACK) & (start < wall)
    paint(fan, ndimage.binary_opening(gap, np.ones((1, 5), bool)), start, wall, out, spacing_mm)


def _bridge_between_dents(fan: Fan, wall: Numbers, dents: Flags, out: Codes, spacing_mm: Spacing) -> None:
    """Fill a few rays between a dent and lung, or two dents, as deep as the dents are.

    Consolidation may fill a recess between diaphragm and ribs to its inner side: no lung is left on those rays.
    """
    reached = dents | (fan.crosses & (wall - fan.last < _HOLLOW_MM))
    width = 2 * round(_NARROW_DEGREES / DEGREES) + 1
    between = ndimage.binary_closing(np.pad(reached, ((0, 0), (width, width)), mode="wrap"), np.ones((1, width)))
    gap = between[:, width:-width] & ~reached & ndimage.binary_dilation(dents, np.ones((1, width)))
    start = wall - smooth(wall - fan.last, dents, spacing_mm[0], mm=4, degrees=4)
    paint(fan, gap & np.isfinite(start), start, wall, out, spacing_mm)


def _close_outline(chest: Chest, fan: Fan, wall: Numbers, out: Codes) -> None:
    """Close the notches of a lung's outline at the chest wall: patches that hold some air and so make no dent."""
    rim = np.zeros_like(out)
    paint(fan, fan.crosses & np.isfinite(wall), np.maximum(wall - _RIM_MM, 0), wall, rim, chest.spacing_mm)
    size = 2 * round(_NOTCH_MM / chest.spacing_mm[1] / 2) + 1
    kernel = np.ones((size, size), np.uint8)
    for side in SIDES:
        columns = chest.columns(side)
        lung = chest.lung(side).view(np.uint8)
        for index in np.flatnonzero(lung.any(axis=(1, 2))):
            rows = np.flatnonzero(lung[index].any(axis=1))
            near = (index, slice(max(int(rows[0]) - size, 0), int(rows[-1]) + size + 1), columns)
            own = lung[index, near[1]]
            out[near] |= cv2.morphologyEx(own, cv2.MORPH_CLOSE, kernel) & rim[near] & ~own


def _fill_from_within(chest: Chest, out: Codes) -> None:
    """Fill dents as seen from the middle of each lung: towards the back, and to side and front in the upper half.

    Farther down, diaphragm and heart lie there; farther up, below the collar bones, ribs tell little. Towards the spine
    only what is lung on the other side counts.
    """
    fans = {side: chest.from_within(side) for side in SIDES}
    there = np.flatnonzero(chest.lungs.any(axis=(1, 2)))
    below_apex = np.arange(len(out)) - there[0]
    upper = (below_apex > _APEX_MM / chest.spacing_mm[0]) & (below_apex < (there[-1] - there[0]) / 2)
    around = np.ones((2 * round(_SIDES_DIFFER_MM / chest.spacing_mm[1]) + 1,) * 2, np.uint8)
    for side, other in (SIDES, SIDES[::-1]):
        fan, outwards = fans[side], LEFT if side == "left" else -LEFT
        wall, healthy = chest_wall(fan, fans[other], chest.spacing_mm[0])
        sector = ((BACK > 0) & (outwards > _INWARDS)) | (upper[:, None] & (outwards > _IN_FRONT))
        chord = fan.inside + np.roll(fan.inside, N_RAYS // 2, axis=1)
        dents = _dents(fan, wall, healthy, chord, sector, chest.spacing_mm[0])
        paint(fan, dents & (outwards > _OUTWARDS), fan.last, wall, out, chest.spacing_mm)
        inwards = np.zeros_like(out)
        paint(fan, dents & (outwards <= _OUTWARDS), fan.last, wall, inwards, chest.spacing_mm)
        slices = np.flatnonzero(inwards.any(axis=(1, 2)))
        likely = chest.reflected(other, slices).view(np.uint8)
        for index, image in zip(slices, likely, strict=True):
            out[index] |= inwards[index] & cv2.dilate(image, around)
