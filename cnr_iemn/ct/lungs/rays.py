"""The lungs as seen along rays from a centre: where each ray leaves them, where the ribs are, and what lies between."""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnr_iemn.ct.compiled import compiled

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
    step, row_mm, column_mm = spacing_mm
    length = np.arange(0, _LONGEST_MM, _STEP_MM)
    down = np.rint(BACK[:, None] * length / row_mm).astype(np.int32)
    across = np.rint(LEFT[:, None] * length / column_mm).astype(np.int32)
    met = np.zeros((5, len(codes), N_RAYS), np.int32)
    _meet(codes, np.rint(centre).astype(np.int32), down, across, int(blind_mm / _STEP_MM), met)
    n_lung, first, last, hull, bone = met
    inside = n_lung.astype(np.float32) * _STEP_MM
    nearest = np.where(bone < 0, np.float32(np.inf), bone * np.float32(_STEP_MM))
    reach = (2 * round(_RIB_REACH_MM / step) + 1, 2 * round(_RIB_REACH_DEGREES / DEGREES) + 1)
    nearest = ndimage.minimum_filter(nearest, reach, mode=("nearest", "wrap"))
    return Fan(
        centre=centre,
        crosses=inside >= least_mm,
        first=_mm(first - 0.5),  # a sample stands for half a step to either side
        last=_mm(last + 0.5),
        inside=inside,
        hull=_mm(hull + 0.5),
        rib=smooth(nearest, np.isfinite(nearest), step, mm=10, degrees=5),
    )


def _mm(samples: NDArray[np.floating]) -> Numbers:
    return (samples * _STEP_MM).astype(np.float32)


@compiled
def _meet(
    codes: Codes,
    centre: NDArray[np.int32],
    down: NDArray[np.int32],
    across: NDArray[np.int32],
    blind: int,
    met: NDArray[np.int32],
) -> None:
    """Fill ``met``, zeros [5, slices, N_RAYS], with samples of rays: how many are lung, the first and last of them,

    the last within the outline, and the first of bone that is not before the last of lung nor before ``blind``. Where
    there is none: 0 for the first of lung, else -1. ``down``, ``across``: of each sample from the centre.
    """
    n, rows, columns = codes.shape
    n_rays, n_samples = down.shape
    ray = np.empty(n_samples, np.uint8)
    for index in range(n):
        for k in range(n_rays):
            n_lung, last, hull, bone = 0, -1, -1, -1
            for sample in range(n_samples):
                row = min(max(centre[index, 0] + down[k, sample], 0), rows - 1)
                column = min(max(centre[index, 1] + across[k, sample], 0), columns - 1)
                ray[sample] = codes[index, row, column]
                if ray[sample] & LUNG:
                    if n_lung == 0:
                        met[1, index, k] = sample
                    n_lung += 1
                    last = sample
                if ray[sample] & (LUNG | HULL):
                    hull = sample
            for sample in range(max(last, blind), n_samples):
                if ray[sample] & BONE:
                    bone = sample
                    break
            met[0, index, k], met[2, index, k], met[3, index, k], met[4, index, k] = n_lung, last, hull, bone


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
