"""Aerated lung, bones and the midline between them: what the search for the rest of the lungs starts from."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnr_iemn.ct.components import Mask
from cnr_iemn.ct.rays import BONE, HULL, LUNG, Codes, Fan, Numbers, Spacing, cast

SIDES = ("right", "left")
"""Of the patient: the right lung has the lower columns."""

_BONE_HU = 200  # and more, in means over a few pixels
_LEAST_LUNG_MM, _MEDIASTINUM_MM, _CENTRE_MM = 8.0, 30.0, 15.0


@dataclass(frozen=True)
class Chest:
    """Arrays are bool [slices, rows, columns], head first, rows from front to back.

    ``lungs``: their aerated part; ``bone``; ``middle``: row and column, half the lungs' depth and the middle of the
    bones beside them, for the lungs' own middle would follow a lung that is missing.
    """

    lungs: Mask
    bone: Mask
    middle: Numbers
    spacing_mm: Spacing

    @classmethod
    def of(cls, hu: NDArray[np.int16], lungs: Mask, spacing_mm: Spacing) -> "Chest | None":
        """Return the chest; None without bones beside lungs."""
        bone = hu > _BONE_HU
        there = np.flatnonzero(lungs.any(axis=(1, 2)))
        if not len(there) or not bone[there[0] : there[-1] + 1].any():
            return None
        across = np.cumsum(bone[there[0] : there[-1] + 1].sum(axis=(0, 1)))
        down = np.cumsum(lungs.sum(axis=(0, 2)))
        front, back = np.searchsorted(down, (0.02 * down[-1], 0.98 * down[-1]))
        middle = np.array([(front + back) / 2, np.searchsorted(across, across[-1] / 2)], np.float32)
        return cls(lungs, bone, middle, spacing_mm)

    def half(self, side: str) -> NDArray[np.bool_]:
        """Tell for each column whether it is on this side."""
        right: NDArray[np.bool_] = np.arange(self.lungs.shape[2]) < self.middle[1]
        return right if side == "right" else ~right

    def lung(self, side: str) -> Mask:
        """Return the aerated part of one lung."""
        lung: Mask = self.lungs & self.half(side)
        return lung

    @property
    def upside_down(self) -> bool:
        """Whether the spine is in front: the patient lay prone and the rows run from back to front."""
        near = slice(*np.clip(self.middle[1] + np.array([-30, 30]) / self.spacing_mm[2], 0, None).astype(int))
        rows = self.bone[:, :, near].sum(axis=(0, 2))
        return bool(rows[: int(self.middle[0])].sum() > 2 * rows[int(self.middle[0]) :].sum())

    def from_middle(self) -> Fan:
        """Look at both lungs from between them."""
        centres = np.tile(self.middle, (len(self.lungs), 1))
        codes = _codes(self.bone, [self.lung(side) for side in SIDES])
        return cast(codes, centres, self.spacing_mm, least_mm=_LEAST_LUNG_MM, blind_mm=_MEDIASTINUM_MM)

    def from_within(self, side: str) -> Fan:
        """Look at one lung from the middle of its aerated part in each slice, which moves smoothly over the slices."""
        lung = self.lung(side)
        rows, columns = lung.sum(axis=2), lung.sum(axis=1)
        moments = [rows.sum(axis=1), rows @ np.arange(rows.shape[1]), columns @ np.arange(columns.shape[1])]
        deviation = _CENTRE_MM / self.spacing_mm[0]
        smooth = ndimage.gaussian_filter1d(np.array(moments, np.float32), deviation, axis=1, mode="constant")
        centres = np.where(smooth[0] > 1, smooth[1:] / np.maximum(smooth[0], 1), self.middle[:, None]).T
        codes = _codes(self.bone, [lung])
        return cast(codes, centres.astype(np.float32), self.spacing_mm, least_mm=_LEAST_LUNG_MM, blind_mm=0)

    def reflected(self, side: str) -> Mask:
        """Return the mirror image of one side's lung, which lies on the other side."""
        n = self.lungs.shape[2]
        source = round(2 * float(self.middle[1])) - np.arange(n)
        inside = (source >= 0) & (source < n)
        image: Mask = self.lung(side)[:, :, np.clip(source, 0, n - 1)] & inside
        return image


def _codes(bone: Mask, lungs: list[Mask]) -> Codes:
    codes = np.zeros(bone.shape, np.uint8)
    for lung in lungs:
        _paint_hulls(lung, codes)
    codes[bone] = BONE
    for lung in lungs:
        codes[lung] = LUNG
    for edge in (codes[:, 0], codes[:, -1], codes[:, :, 0], codes[:, :, -1]):
        edge[:] = 0  # rays go on along the edge of the image
    return codes


def _paint_hulls(lung: Mask, codes: Codes) -> None:
    """Paint the convex outline of a lung in each slice; the ends of its rows tell it."""
    in_row: Mask = np.asarray(lung.any(axis=2))
    first, last = lung.argmax(axis=2), lung.shape[2] - 1 - lung[:, :, ::-1].argmax(axis=2)
    for index in np.flatnonzero(in_row.any(axis=1)):
        rows = np.flatnonzero(in_row[index])
        ends = np.concatenate([first[index, rows], last[index, rows]])
        points = np.stack([ends, np.tile(rows, 2)], axis=1).astype(np.int32)
        cv2.fillConvexPoly(codes[index], cv2.convexHull(points), HULL)
