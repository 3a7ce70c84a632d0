"""The top of the diaphragm, which filling a slice's holes takes for lung."""

import cv2
import numpy as np

from cnr_iemn.ct.lungs.components import Mask
from cnr_iemn.ct.lungs.rays import Spacing

_LEAST_CM2 = 10.0
"""Of a section: a dome as flat as the diaphragm has that a few mm below its top, a nodule on it does not."""
_VESSELS_MM, _WIDENS_MM = 4.0, 2.0
_LIES_ON = 0.9


def find_domes(air: Mask, filled: Mask, spacing_mm: Spacing) -> Mask:
    """Return tissue with lung all around it in a slice that goes on, and widens, down to where it is open.

    ``air``: aerated lung, bool [slices, rows, columns], head first; ``filled``: the same with the holes of each slice
    filled; ``spacing_mm``: slices, rows, columns. Sections of less than 10 cm2 stay lung: consolidations that lie on
    the diaphragm look the same. So stays what ends within the lungs, or is narrower below.
    """
    domes = np.zeros_like(filled)
    least = 100 * _LEAST_CM2 / (spacing_mm[1] * spacing_mm[2])
    vessels, widens = _disc(_VESSELS_MM, spacing_mm), _disc(_WIDENS_MM, spacing_mm)
    holes = filled & ~air
    for index in reversed(np.flatnonzero(np.count_nonzero(holes[:-1], axis=(1, 2)) >= least)):
        below = ~filled[index + 1] | domes[index + 1]
        hole = holes[index].view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(hole, cv2.MORPH_OPEN, vessels))
        for k in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1:
            section = (labels == k).astype(np.uint8)
            if below[cv2.dilate(section, widens).view(bool)].mean() >= _LIES_ON:
                domes[index] |= (cv2.dilate(section, vessels) & hole).view(bool)
    return domes


def _disc(radius_mm: float, spacing_mm: Spacing) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    size = 2 * max(1, round(radius_mm / spacing_mm[1])) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
