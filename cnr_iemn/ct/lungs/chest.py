"""Aerated lung, bones and the midline between them: what the search for the rest of the lungs starts from."""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnr_iemn.ct.lungs.components import Mask
from cnr_iemn.ct.lungs.rays import BONE, HULL, LUNG, Codes, Fan, Numbers, Spacing, cast

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

    def columns(self, side: str) -> slice:
        """Return the columns of one side."""
        middle = math.ceil(float(self.middle[1]))
        return slice(0, middle) if side == "right" else slice(middle, self.lungs.shape[2])

    def lung(self, side: str) -> Mask:
        """Return the aerated part of one lung within the columns of its side."""
        return self.lungs[:, :, self.columns(side)]

    @property
    def upside_down(self) -> bool:
        """Whether the spine is in front: the patient lay prone and the rows run from back to front."""
        near = slice(*np.clip(self.middle[1] + np.array([-30, 30]) / self.spacing_mm[2], 0, None).astype(int))
        rows = self.bone[:, :, near].sum(axis=(0, 2))
        return bool(rows[: int(self.middle[0])].sum() > 2 * rows[int(self.middle[0]) :].sum())

    @cached_property
    def _codes(self) -> Codes:
        codes = np.zeros(self.lungs.shape, np.uint8)
        for side in SIDES:
            _paint_hulls(self.lung(side), codes, self.columns(side).start)
        np.copyto(codes, np.uint8(BONE), where=self.bone)
        np.copyto(codes, np.uint8(LUNG), where=self.lungs)
        for edge in (codes[:, 0], codes[:, -1], codes[:, :, 0], codes[:, :, -1]):
            edge[:] = 0  # rays go on along the edge of the image
        return codes

    @property
    def hulls(self) -> Mask:
        """Return what lies within the convex outline of a lung in its slice, bool [slices, rows, columns]."""
        within: Mask = self._codes & (LUNG | HULL) > 0
        return within

    def from_middle(self) -> Fan:
        """Look at both lungs from between them."""
        centres = np.tile(self.middle, (len(self.lungs), 1))
        return cast(self._codes, centres, self.spacing_mm, least_mm=_LEAST_LUNG_MM, blind_mm=_MEDIASTINUM_MM)

    def from_within(self, side: str) -> Fan:
        """Look at one lung from the middle of its aerated part in each slice, which moves smoothly over the slices."""
        columns = self.columns(side)
        some = self.lung(side)[:, ::2, ::2].view(np.uint8)  # enough for the middle
        down, across = np.arange(some.shape[1]) * 2 + 0.5, np.arange(some.shape[2]) * 2 + 0.5 + columns.start
        rows, row_of = some.sum(axis=2, dtype=np.float32), some.sum(axis=1, dtype=np.float32)
        moments = np.array([rows.sum(axis=1), rows @ down, row_of @ across], np.float32)
        deviation = _CENTRE_MM / self.spacing_mm[0]
        smooth = ndimage.gaussian_filter1d(moments, deviation, axis=1, mode="constant")
        centres = np.where(smooth[0] > 0.25, smooth[1:] / np.maximum(smooth[0], 0.25), self.middle[:, None]).T
        codes = self._codes.copy()
        codes[:, :, self.columns(SIDES[1 - SIDES.index(side)])] &= BONE
        return cast(codes, centres.astype(np.float32), self.spacing_mm, least_mm=_LEAST_LUNG_MM, blind_mm=0)

    def reflected(self, side: str, slices: NDArray[np.integer] | slice) -> Mask:
        """Return the mirror image of one side's lung, on the other side, in these slices."""
        n = self.lungs.shape[2]
        turned = self.lungs[slices][:, :, ::-1]
        shift = round(2 * float(self.middle[1])) - (n - 1)  # of the turned image, to lie about the middle
        image = np.zeros(turned.shape, bool)
        image[:, :, max(shift, 0) : n + min(shift, 0)] = turned[:, :, max(-shift, 0) : n - max(shift, 0)]
        image[:, :, self.columns(side)] = False
        return image


def _paint_hulls(lung: Mask, codes: Codes, left: int) -> None:
    """Paint the convex outline of a lung in each slice; the ends of its rows tell it. ``left``: its first column."""
    in_row: Mask = np.asarray(lung.any(axis=2))
    first, last = lung.argmax(axis=2), lung.shape[2] - 1 - lung[:, :, ::-1].argmax(axis=2)
    for index in np.flatnonzero(in_row.any(axis=1)):
        rows = np.flatnonzero(in_row[index])
        ends = np.concatenate([first[index, rows], last[index, rows]])
        points = np.stack([ends + left, np.tile(rows, 2)], axis=1).astype(np.int32)
        cv2.fillConvexPoly(codes[index], cv2.convexHull(points), HULL)
