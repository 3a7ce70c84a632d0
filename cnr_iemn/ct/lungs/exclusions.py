"""What an air threshold with filled holes takes for lung and is none: airways, bowel gas, the top of the diaphragm."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import parameters
from cnr_iemn.ct.lungs.morphology import SQUARE, Mask, Spacing, disc, large_components


def find_gas(hu: NDArray[np.int16], lungs: Mask, spacing_mm: Spacing) -> Mask:
    """Find gas with a wall of its own within a lung mask: trachea, main bronchi, stomach and bowel.

    Gas is emptier than the scan's lungs, and tissue surrounds most of it in each slice, so that emphysema and bullae
    stay. Nothing is found where the lungs themselves are as empty as gas.

    Args:
        hu: int16 [slices, rows, columns], HU.
        lungs: bool of the same shape.
        spacing_mm: Slice, row and column spacing.

    Returns:
        Gas with its rim, bool [slices, rows, columns].
    """
    gas = np.zeros(lungs.shape, np.uint8)
    limit = min(parameters.GAS_HU, float(np.median(hu[lungs][::4])) - parameters.GAS_CONTRAST_HU)
    if limit < parameters.GAS_FLOOR_HU:
        return gas.view(bool)
    min_area = max(2, round(100 * parameters.GAS_SECTION_CM2 / (spacing_mm[1] * spacing_mm[2])))
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        empty = ((cv2.blur(hu[index], (3, 3)) < limit) & lungs[index]).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(empty, connectivity=4)
        outside = cv2.dilate(empty, SQUARE, iterations=2) == 0
        for k in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= min_area) + 1:
            component = cv2.dilate((labels == k).view(np.uint8), SQUARE)
            surroundings = hu[index][cv2.dilate(component, SQUARE, iterations=3).view(bool) & outside]
            if np.mean(surroundings >= parameters.GAS_TISSUE_HU) >= parameters.GAS_WALL_SHARE:
                gas[index] |= component
    if len(gas) > 1:
        min_voxels = 1000 * parameters.GAS_VOLUME_ML / float(np.prod(spacing_mm))
        gas = large_components(gas.view(bool), min_voxels).view(np.uint8)
    for index in np.flatnonzero(gas.any(axis=(1, 2))):  # thin remains of walls and folds go too
        rest = lungs[index].view(np.uint8) & ~gas[index]
        thin = rest & ~cv2.morphologyEx(rest, cv2.MORPH_OPEN, SQUARE)
        gas[index] |= thin & cv2.dilate(gas[index], SQUARE, iterations=3)
    return gas.view(bool)


def find_domes(air: Mask, filled: Mask, spacing_mm: Spacing) -> Mask:
    """Find the top of the diaphragm: tissue with lung all around it that continues and widens down to open tissue.

    Sections below ``DOME_SECTION_CM2`` stay lung, since consolidations on the diaphragm look the same, and so does
    tissue that ends within the lungs or narrows downwards.

    Args:
        air: Aerated lung, bool [slices, rows, columns], head first.
        filled: The same with the holes of each slice filled.
        spacing_mm: Slice, row and column spacing.

    Returns:
        Domes, bool [slices, rows, columns].
    """
    domes = np.zeros_like(filled)
    min_area = 100 * parameters.DOME_SECTION_CM2 / (spacing_mm[1] * spacing_mm[2])
    vessel, margin = (disc(mm / spacing_mm[1]) for mm in (parameters.DOME_VESSEL_MM, parameters.DOME_MARGIN_MM))
    holes = filled & ~air
    for index in reversed(np.flatnonzero(np.count_nonzero(holes[:-1], axis=(1, 2)) >= min_area)):
        below = ~filled[index + 1] | domes[index + 1]
        hole = holes[index].view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(hole, cv2.MORPH_OPEN, vessel))
        for k in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= min_area) + 1:
            section = (labels == k).view(np.uint8)
            if below[cv2.dilate(section, margin).view(bool)].mean() >= parameters.DOME_SUPPORT_SHARE:
                domes[index] |= (cv2.dilate(section, vessel) & hole).view(bool)
    return domes
