"""The lungs as seen along rays from a centre: where each ray leaves them, where the ribs are, and what lies between."""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Codes = NDArray[np.uint8]
Numbers = NDArray[np.float32]
Flags = NDArray[np.bool_]
Spacing = tuple[float, float, float]

Scalar = TypeVar("Scalar", bound=np.generic)

LUNG, BONE, HULL = 1, 2, 4
"""Bits of a voxel's code: lung, bone, and within the convex outline of a lung in its slice."""

N_RAYS = 180
DEGREES = 360 / N_RAYS
ANGLES = np.radians((np.arange(N_RAYS) + 0.5) * DEGREES - 90)
"""From the front (decreasing row) over the patient's left (increasing column) to the back and on to the right."""
BACK, LEFT = np.sin(ANGLES), np.cos(ANGLES)

_STEP_MM, _LONGEST_MM = 2.0, 190.0
_RIB_REACH_MM, _RIB_REACH_DEGREES = 10.0, 4.0  # a ray finds a rib at least that near, for ribs run obliquely
_MOST_GAP_MM = 15.0  # between the ribs and a lung that lies against them
_HEALTHY_MM, _SAME_MM = 4.0, 3.0
_BULGE_MM, _BULGE_DEGREES = 10.0, 46.0


@dataclass(frozen=True)
class Fan:
    """What rays from one centre in each slice meet. Arrays are [slices, N_RAYS]; lengths in mm from the centre.

    ``centre``: row and column, [slices, 2]. ``crosses``: the ray has lung on it, at least as much as was asked for.
    ``first``, ``last``: its first and last voxel of lung; ``inside``: mm of lung on it; ``hull``: its last voxel within
    the lungs' convex outline. ``rib``: the inner side of the ribs beyond the lung, smooth; NaN where there is none.
    """

    centre: Numbers
    crosses: Flags
    first: Numbers
    last: Numbers
    inside: Numbers
    hull: Numbers
    rib: Numbers


def cast(codes: Codes, centre: Numbers, spacing_mm: Spacing, *, least_mm: float, blind_mm: float) -> Fan:
    """Look along the rays from ``centre``. ``codes``: uint8 [slices, rows, columns].

    ``least_mm``: of lung on a ray, for it to cross the lungs; ``blind_mm``: no rib is nearer to the centre.
    """
    n, rows, columns = codes.shape
    step, row_mm, column_mm = spacing_mm
    length = np.arange(0, _LONGEST_MM, _STEP_MM)
    down = np.rint(BACK[:, None] * length / row_mm).astype(np.int32)
    across = np.rint(LEFT[:, None] * length / column_mm).astype(np.int32)
    met = np.empty((n, *down.shape), np.uint8)
    at = None
    for image, (row, column), out in zip(codes, np.rint(centre).astype(np.int32), met, strict=True):
        if (row, column) != at:
            at = (row, column)
            flat = np.clip(down + row, 0, rows - 1) * columns + np.clip(across + column, 0, columns - 1)
        np.take(image, flat, out=out, mode="clip")
    lung = met & LUNG > 0
    inside = np.count_nonzero(lung, axis=2).astype(np.float32) * _STEP_MM
    last = _last(lung)
    bone = met & BONE > 0
    bone[:, :, : int(blind_mm / _STEP_MM)] = False
    bone &= np.arange(len(length)) > last[:, :, None] - 1
    nearest = np.where(bone.any(axis=2), bone.argmax(axis=2), np.float32(np.inf)) * np.float32(_STEP_MM)
    reach = (2 * round(_RIB_REACH_MM / step) + 1, 2 * round(_RIB_REACH_DEGREES / DEGREES) + 1)
    nearest = ndimage.minimum_filter(nearest, reach, mode=("nearest", "wrap"))
    return Fan(
        centre=centre,
        crosses=inside >= least_mm,
        first=_mm(lung.argmax(axis=2) - 0.5),  # a sample stands for half a step to either side
        last=_mm(last + 0.5),
        inside=inside,
        hull=_mm(_last(met & (LUNG | HULL) > 0) + 0.5),
        rib=smooth(nearest, np.isfinite(nearest), step, mm=10, degrees=5),
    )


def _mm(samples: NDArray[np.floating]) -> Numbers:
    return (samples * _STEP_MM).astype(np.float32)


def _last(flags: Flags) -> NDArray[np.int64]:
    """Return the index of the last True along the last axis, -1 where there is none."""
    backwards = flags[..., ::-1].argmax(axis=-1)
    return np.where(flags.any(axis=-1), flags.shape[-1] - 1 - backwards, -1)


def smooth(
    values: NDArray[np.floating], weight: NDArray[np.bool_ | np.floating], step_mm: float, *, mm: float, degrees: float
) -> Numbers:
    """Return the weighted mean around each ray by a Gaussian of these deviations; NaN where no weight is near."""
    deviation = (mm / step_mm, degrees / DEGREES)
    weights: Numbers = np.asarray(weight, np.float32)
    around = ndimage.gaussian_filter(weights, deviation, mode=("nearest", "wrap"), truncate=2)
    known = np.where(weights > 0, values, np.float32(0)).astype(np.float32) * weights
    total = ndimage.gaussian_filter(known, deviation, mode=("nearest", "wrap"), truncate=2)
    mean: Numbers = np.where(around > 0.02, total / np.maximum(around, 1e-6), np.nan).astype(np.float32)
    return mean


def mirrored(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return what the ray on the other side of the midline has."""
    return values[:, ::-1]


def chest_wall(fan: Fan, mate: Fan, step_mm: float) -> tuple[Numbers, Flags]:
    """Return where the pleura lies, mm from the centre (NaN: not known), and the rays on which lung lies against it.

    The ribs less the gap at which lung lies from them nearby, here or on the other side (``mate``, the same fan where
    its centre is the middle). Lung that is as far from the ribs on both sides lies against the pleura too: the gap is
    fat or muscle.
    """
    gap = fan.rib - fan.last
    gap_there = np.where(mirrored(mate.crosses), mirrored(mate.rib - mate.last), np.nan)
    close = gap[fan.crosses & (np.abs(gap) < _MOST_GAP_MM)]
    usual = float(np.quantile(close, 0.3)) if close.size else 5.0
    alike = (np.abs(gap - gap_there) < _SAME_MM) & (gap < usual + _MOST_GAP_MM)
    here = fan.crosses & ((gap <= usual + _HEALTHY_MM) | alike)
    there = gap_there <= usual + _MOST_GAP_MM
    weight = here + 0.3 * there
    mean = (np.where(here, gap, 0) + 0.3 * np.where(there, gap_there, 0)) / np.maximum(weight, 1e-6)
    local = smooth(mean, weight, step_mm, mm=12, degrees=7.5)
    wide = smooth(mean, weight, step_mm, mm=40, degrees=22)
    local = np.where(np.isfinite(local), local, np.where(np.isfinite(wide), wide, usual))
    wall = fan.rib - local
    wall = smooth(wall, np.isfinite(wall), step_mm, mm=3, degrees=2)
    return _without_bulges(wall), here


def _without_bulges(wall: Numbers) -> Numbers:
    """Return the wall without what stands far out between rays: where no rib is near, another bone behind is met."""
    known = np.where(np.isfinite(wall), wall, np.float32(np.inf))
    size = 2 * round(_BULGE_DEGREES / DEGREES / 2) + 1
    inner = ndimage.minimum_filter1d(known, size, axis=1, mode="wrap")
    opened = ndimage.maximum_filter1d(inner, size, axis=1, mode="wrap")
    return np.where(wall - opened > _BULGE_MM, opened, wall)


def paint(fan: Fan, chosen: Flags, start: Numbers, end: Numbers, out: Codes, spacing_mm: Spacing) -> None:
    """Set ``out``, uint8 [slices, rows, columns], to 1 between ``start`` and ``end`` (mm) of the chosen rays."""
    _, row_mm, column_mm = spacing_mm
    for index in np.flatnonzero(chosen.any(axis=1)):
        rays = np.flatnonzero(chosen[index])
        for run in np.split(rays, np.flatnonzero(np.diff(rays) > 1) + 1):
            wide = np.concatenate([[run[0] - 0.5], run, [run[-1] + 0.5]])  # a ray stands for the angle around it
            ends = np.concatenate([run[:1], run, run[-1:]])
            angle = np.radians((np.concatenate([wide, wide[::-1]]) + 0.5) * DEGREES - 90)
            length = np.concatenate([start[index, ends], end[index, ends[::-1]]])
            x = fan.centre[index, 1] + np.cos(angle) * length / column_mm
            y = fan.centre[index, 0] + np.sin(angle) * length / row_mm
            cv2.fillPoly(out[index], [np.rint(np.stack([x, y], axis=1)).astype(np.int32)], 1)
