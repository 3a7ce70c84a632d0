"""Lung that thresholds lose: consolidation and fluid between aerated lung and the pleura.

Their density is that of muscle, so only the shape shows them. The ribs show where the chest wall is, and the aerated
lung above it how high the diaphragm is: it falls from its top towards the ribs, so that tissue on a ray from the middle
of a lung to the wall, above the lowest lung nearer to the middle, belongs to the lung.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import parameters
from cnr_iemn.ct.lungs.morphology import Mask, Spacing, disc, map_slices

Lengths = NDArray[np.float32]
Grid = tuple[NDArray[np.float32], NDArray[np.float32]]
Filter = Callable[[Lengths, NDArray[np.float64]], NDArray[np.generic]]

N_RAYS = 360
ANGLES = np.radians(np.arange(N_RAYS) - 89.5)
"""From the front (decreasing row) over the patient's left (increasing column) to the back and on to the right."""
BACK, LEFT = np.sin(ANGLES), np.cos(ANGLES)
RADII = np.arange(0, parameters.RAY_LENGTH_MM, parameters.RAY_STEP_MM)


def ray_grid(row: float, column: float, shape: tuple[int, ...], spacing_mm: Spacing) -> tuple[Grid, Grid]:
    """Return where samples along rays from a point lie among the pixels, and where pixels lie among the samples.

    ``row``, ``column``: the point; ``shape``: of the volume. Each is a pair for ``look_up``.
    """
    down = (np.arange(shape[1])[:, None] - row) * spacing_mm[1]
    across = (np.arange(shape[2]) - column) * spacing_mm[2]
    ray = np.floor(np.degrees(np.arctan2(down, across)) + 90) % N_RAYS
    columns, rows = column + LEFT[:, None] * RADII / spacing_mm[2], row + BACK[:, None] * RADII / spacing_mm[1]
    radius = np.hypot(down, across) / parameters.RAY_STEP_MM
    return (columns.astype(np.float32), rows.astype(np.float32)), (radius.astype(np.float32), ray.astype(np.float32))


def look_up(mask: Mask, grid: Grid) -> Mask:
    """Look up each slice of a mask at the columns and rows of ``grid``; False outside."""
    values = np.zeros((len(mask), *grid[0].shape), np.uint8)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        cv2.remap(np.ascontiguousarray(mask[index]).view(np.uint8), *grid, cv2.INTER_NEAREST, dst=values[index])
    return values.view(bool)


@dataclass(frozen=True)
class LungRays:
    """One lung along rays from its middle.

    Attributes:
        lung: Aerated lung, bool [slices, N_RAYS, radii].
        last: mm from the middle to the end of the last lung on each ray, [slices, N_RAYS]; 0 without lung.
        rib: mm from the middle to the inner side of the ribs, smooth, [slices, N_RAYS]; NaN without ribs.
        outward: Cosine of each ray to the direction away from the midline, [N_RAYS].
        slice_mm: Slice spacing.
    """

    lung: Mask
    last: Lengths
    rib: Lengths
    outward: NDArray[np.float64]
    slice_mm: float


def recover_pleura(hu: NDArray[np.int16], lungs: Mask, excluded: Mask, spacing_mm: Spacing) -> Mask:
    """Find dense tissue that belongs to the lungs.

    Args:
        hu: int16 [slices, rows, columns], HU, head first. Rows from front to back and columns from the patient's right
            to the left, or both the other way round (prone).
        lungs: Aerated lung, bool of the same shape.
        excluded: Airways, bowel and diaphragm, bool of the same shape.
        spacing_mm: Slice, row and column spacing.

    Returns:
        Tissue to add to ``lungs``, bool of the same shape. Empty without bones at the level of the lungs.
    """
    dense, bone = np.zeros(lungs.shape, bool), hu > parameters.BONE_HU
    bones_across = np.cumsum(bone[lungs.any(axis=(1, 2))].sum(axis=(0, 1)))
    if not bones_across[-1]:
        return dense
    column = int(np.searchsorted(bones_across, bones_across[-1] / 2))
    rows, columns = (np.flatnonzero(lungs.any(axis=(0, axis))) for axis in (2, 1))
    row, offset = rows[[0, -1]].mean(), np.abs(columns[[0, -1]] - column).max() / 2
    half = round(parameters.SPINE_MM / spacing_mm[2])
    spine = bone[:, :, max(column - half, 0) : column + half].sum(axis=(0, 2))
    if spine[: int(row)].sum() > 2 * spine[int(row) :].sum():  # prone
        turn = np.s_[:, ::-1, ::-1]
        return recover_pleura(hu[turn], lungs[turn], excluded[turn], spacing_mm)[turn]
    kernel = disc(parameters.CLOSING_MM / 2 / spacing_mm[1])
    right = np.arange(lungs.shape[2]) < column
    halves, grids, sides = (lungs & right, lungs & ~right), [], []
    for lung, sign in zip(halves, (-1, 1), strict=True):
        samples, pixels = ray_grid(row, column + sign * offset, lungs.shape, spacing_mm)
        grids.append(pixels)
        sides.append(_trace(look_up(lung, samples), look_up(bone, samples), sign * LEFT, spacing_mm[0]))
    for lung, grid, side, other in zip(halves, grids, sides, sides[::-1], strict=True):
        dents = look_up(_find_dents(side, *_find_wall(side, other)), grid)
        # notches of the outline, which are patches with some air, and seams beside dents
        dense |= dents | map_slices(lung | dents, lambda image: cv2.morphologyEx(image, cv2.MORPH_CLOSE, kernel))
    dense &= lungs.any(axis=(1, 2), keepdims=True)  # the estimate of the diaphragm may lie below both lungs
    return dense & (hu > parameters.THRESHOLD_HU) & (hu < parameters.TISSUE_HU) & ~lungs & ~excluded


def _trace(lung: Mask, bone: Mask, outward: NDArray[np.float64], slice_mm: float) -> LungRays:
    """Find the end of the lung on each ray, and the nearest bone beyond on it or on rays and slices nearby."""
    n_radii, step = len(RADII), np.float32(parameters.RAY_STEP_MM)
    last = np.where(lung.any(axis=2), n_radii - lung[:, :, ::-1].argmax(axis=2), 0)
    start = np.maximum(last - 1, int(parameters.HILUM_MM / step))
    beyond = bone & (np.arange(n_radii) >= start[..., None])
    nearest = np.where(beyond.any(axis=2), beyond.argmax(axis=2) * step, np.float32(np.inf))
    reach = _size(parameters.RIB_GAP_MM * 4 / 3, slice_mm), _size(2 * parameters.RIB_GAP_DEGREES)
    nearest = _filter(nearest, np.ones(reach), cv2.erode)
    rib = _smooth(nearest, np.isfinite(nearest), (10 / slice_mm, 5))
    end = ((last - 0.5 * (last > 0)) * step).astype(np.float32)  # a sample stands for half a step to either side
    return LungRays(lung, end, rib, outward, slice_mm)


def _size(extent: float, step: float = 1) -> int:
    """Return an odd number of steps."""
    return 2 * round(extent / step / 2) + 1


def _filter(values: Lengths, kernel: NDArray[np.float64], *functions: Filter) -> Lengths:
    """Apply filters to [slices, N_RAYS], one after the other: rays go round, outer slices are repeated."""
    above, before = kernel.shape[0] // 2, kernel.shape[1] // 2
    for function in functions:
        image = cv2.copyMakeBorder(values, above, above, 0, 0, cv2.BORDER_REPLICATE)
        image = cv2.copyMakeBorder(image, 0, 0, before, before, cv2.BORDER_WRAP)
        values = function(image, kernel)[above : above + len(values), before : before + N_RAYS].astype(values.dtype)
    return values


def _smooth(values: Lengths, weights: NDArray[np.generic], sigma: tuple[float, float]) -> Lengths:
    """Return Gaussian weighted means over slices and rays, cut at two sigma; NaN where no weight is near."""
    weight = weights.astype(np.float32)
    product = np.where(weight > 0, values, np.float32(0)) * weight
    down, across = (cv2.getGaussianKernel(2 * int(2 * steps + 0.5) + 1, steps) for steps in sigma)

    def blur(image: Lengths) -> Lengths:
        image = _filter(image, down, lambda wide, kernel: cv2.sepFilter2D(wide, cv2.CV_64F, np.ones(1), kernel))
        return _filter(image, across.T, lambda wide, kernel: cv2.sepFilter2D(wide, cv2.CV_64F, kernel, np.ones(1)))

    weight, product = blur(weight), blur(product)
    return np.where(weight > 0.02, product / np.maximum(weight, np.float32(1e-6)), np.float32(np.nan))


def _find_wall(side: LungRays, other: LungRays) -> tuple[Lengths, Mask]:
    """Return mm from the middle to the pleura (NaN: unknown), and the rays on which lung touches it.

    The wall is the ribs less the gap between rib and healthy lung nearby. A gap that both sides share is fat or muscle.
    """
    gaps = np.stack([np.where(rays.last > 0, rays.rib - rays.last, np.float32(np.nan)) for rays in (side, other)])
    gaps[1] = gaps[1, :, ::-1]
    gap, opposite = gaps
    narrow = gaps[np.abs(gaps) < parameters.WALL_GAP_MM]
    typical = float(np.quantile(narrow, 0.3)) if narrow.size else 5.0
    shared = (np.abs(gap - opposite) < parameters.SYMMETRY_MM) & (gap < typical + parameters.WALL_GAP_MM)
    healthy = (gap <= typical + parameters.HEALTHY_GAP_MM) | shared
    weights = np.stack([healthy, parameters.SYMMETRY_WEIGHT * (opposite <= typical + parameters.WALL_GAP_MM)])
    weight = weights.sum(axis=0)
    mean = ((weights * np.nan_to_num(gaps)).sum(axis=0) / np.maximum(weight, 1e-6)).astype(np.float32)
    mean = _smooth(mean, weight, (20 / side.slice_mm, 12))
    wall = side.rib - np.where(np.isfinite(mean), mean, np.float32(typical))
    nearby = _smooth(wall, np.isfinite(wall), (20 / side.slice_mm, 15))
    return _cut_bulges(np.where(np.isfinite(wall), wall, nearby)), healthy


def _cut_bulges(wall: Lengths) -> Lengths:
    """Cut what stands far out between rays: where no rib is near, a ray meets a bone behind the ribs."""
    finite = np.where(np.isfinite(wall), wall, np.float32(np.inf))
    smooth = _filter(finite, np.ones((1, _size(parameters.BULGE_DEGREES))), cv2.erode, cv2.dilate)
    return np.where(wall - smooth > parameters.BULGE_MM, smooth, wall)


def _find_dents(side: LungRays, wall: Lengths, healthy: Mask) -> Mask:
    """Return dense lung along the rays, [slices, N_RAYS, radii]: from the last lung to the wall, above the diaphragm.

    Dents are deep over a large area. Shallow rays count only around deep ones or in a hollow of the lung's outline,
    since the wall is known to a few mm.
    """
    crosses = side.last > 0
    depth_mm = np.arange(len(crosses))[:, None, None] * side.slice_mm
    forwards = crosses & (side.outward > parameters.FRONT_OUTWARD)
    sector = np.where(parameters.FRONT < BACK, side.outward > parameters.INWARD, forwards)
    beyond = (wall[..., None] + parameters.WALL_MARGIN_MM >= RADII) & (side.last[..., None] < RADII) & sector[..., None]
    top = int((crosses.mean(axis=1) > parameters.TOP_SHARE).argmax())
    if top > 0:  # else the scan begins below the apex, as a single slice does
        beyond &= depth_mm >= top * side.slice_mm + parameters.APEX_MM
    above = beyond & (depth_mm <= _find_diaphragm(side, wall))
    depth = above.sum(axis=2) * parameters.RAY_STEP_MM
    size = _size(parameters.HOLLOW_HEIGHT_MM, side.slice_mm), _size(parameters.HOLLOW_DEGREES)
    hollow = _filter(side.last, np.ones(size), cv2.dilate, cv2.erode) - side.last > parameters.DENT_MM
    deep = ~healthy & ((depth > parameters.DEEP_MM) | (hollow & (depth > parameters.HOLLOW_MM)))
    height_mm = side.slice_mm if len(crosses) > 1 else max(side.slice_mm, parameters.SINGLE_SLICE_MM)
    area_cm2 = np.where(deep, np.nan_to_num(wall) * np.radians(1) * height_mm / 100, 0)
    n, labels = cv2.connectedComponents((depth > parameters.DENT_MM).view(np.uint8), connectivity=4)
    large = np.bincount(labels.ravel(), weights=area_cm2.ravel(), minlength=n) > parameters.DENT_AREA_CM2
    large[0] = False
    dense: Mask = above & large[labels][..., None]
    dense[1:] |= dense[:-1] & beyond[1:]  # a dent ends between two slices
    return dense


def _find_diaphragm(side: LungRays, wall: Lengths) -> Lengths:
    """Return mm from the first slice down to the diaphragm, [N_RAYS, radii]: the lowest lung nearer to the middle.

    On rays whose lowest lung ends before the wall, an estimate goes on below: it falls from there like a parabola.
    """
    slices = np.arange(len(side.lung))[:, None]
    lowest = np.where(side.lung, slices[..., None], -1).max(axis=0)
    height = np.where(lowest >= 0, np.float32(lowest * side.slice_mm), np.float32(-np.inf))
    level = np.maximum.accumulate(height, axis=1)
    parabola = np.float32(parameters.FALL_PER_MM * RADII**2)
    fall = np.maximum.accumulate(height - parabola, axis=1) + parabola
    end = np.where(side.last > 0, slices, 0).max(axis=0), np.arange(N_RAYS)
    recess = (side.last > 0).any(axis=0) & ~((wall - side.last)[end] > parameters.RECESS_MM)
    return np.where(recess[:, None], level, np.maximum(fall, level))
