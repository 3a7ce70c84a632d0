"""Pulmonary vessels and bronchi of the phantom: a tree that fills the lung, its radius falling by Murray's law."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import Anatomy
from cnr_iemn.phantom.random_fields import Array

_WINDOWS = (8, 12, 16, 24)
"""Sides in pixels of the windows in which tubes are painted."""


@dataclass(frozen=True)
class Tubes:
    """Straight tubes: ``start`` and ``end`` [m, 3] (x, y, u in mm) and ``radius`` [m] in mm."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    radius: NDArray[np.float64]

    def crossing(self, u: float, margin: float) -> "Tubes":
        """Return the parts of the tubes that a slice at depth ``u`` cuts, clipped to their radius + margin."""
        reach = np.maximum(self.radius, margin)
        low = np.minimum(self.start[:, 2], self.end[:, 2]) - reach
        high = np.maximum(self.start[:, 2], self.end[:, 2]) + reach
        near = (low < u) & (u < high)
        start, end, reach = self.start[near], self.end[near], reach[near]
        fall = end[:, 2] - start[:, 2]
        fall = np.where(np.abs(fall) < 1e-3, 1e-3, fall)
        fractions = np.stack([(u - reach - start[:, 2]) / fall, (u + reach - start[:, 2]) / fall])
        first, last = np.clip(fractions.min(0), 0, 1)[:, None], np.clip(fractions.max(0), 0, 1)[:, None]
        run = end - start
        return Tubes(start + first * run, start + last * run, self.radius[near])


def grow_tree(
    rng: np.random.Generator, points: NDArray[np.float64], root: NDArray[np.float64], thinnest: float
) -> Tubes:
    """Grow a binary tree from ``root`` [3] to ``points`` [2**k, 3]: each level halves every group of targets.

    A branch goes part of the way to its group's centre. Its radius is that of the thinnest branch, ``thinnest`` mm,
    times the cube root of the number of targets it serves (Murray's law).
    """
    groups, nodes = points[None], root[None]
    starts, tip_points, radii = [], [], []
    while True:
        share = rng.uniform(0.3, 0.55, (len(groups), 1)) if groups.shape[1] > 1 else 1.0
        tips = nodes + share * (groups.mean(1) - nodes)
        starts.append(nodes)
        tip_points.append(tips)
        radii.append(np.full(len(groups), thinnest * groups.shape[1] ** (1 / 3)))
        if groups.shape[1] == 1:
            return Tubes(np.concatenate(starts), np.concatenate(tip_points), np.concatenate(radii))
        axes = groups.std(1) * rng.uniform(
            0.8, 1.2, (len(groups), 3)
        )  # cut across the longest side, not always exactly
        key = np.take_along_axis(groups, axes.argmax(1)[:, None, None], 2)[..., 0]
        order = np.argsort(key, axis=1)
        ordered = np.take_along_axis(groups, order[..., None], 1)
        groups = ordered.reshape(2 * len(groups), -1, 3)
        nodes = np.repeat(tips, 2, axis=0)


def draw_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Tubes:
    """Draw the vessels of both lungs, from the hila to targets spread over each lung."""
    trees = []
    points = anatomy.sample(rng, 4 * anatomy.vessel_leaves)
    for side in (-1, 1):
        targets = points[np.sign(points[:, 0]) == side]
        targets = targets[rng.permutation(len(targets))[: anatomy.vessel_leaves]]
        if len(targets) < anatomy.vessel_leaves:
            targets = np.concatenate([targets, targets[: anatomy.vessel_leaves - len(targets)]])
        root = np.array([side * 0.26 * anatomy.half_width, 0.05 * anatomy.half_depth, 0.42 * anatomy.height])
        trees.append(grow_tree(rng, targets, root, anatomy.vessel_radius))
    return Tubes(*(np.concatenate([getattr(tree, name) for tree in trees]) for name in ("start", "end", "radius")))


def draw_airways(rng: np.random.Generator, anatomy: Anatomy) -> Tubes:
    """Draw trachea, main and lobar bronchi (radius of the lumen)."""
    width, height = anatomy.half_width, anatomy.height
    y = rng.uniform(-0.05, 0.12) * anatomy.half_depth
    size = width / 130
    carina = np.array([rng.uniform(-3, 3), y + 6, rng.uniform(0.30, 0.36) * height])
    top = np.array([0.0, y - 12, -120.0])
    tubes = [(top, carina, 8.0 * size)]
    for side, length in ((-1, 0.10), (1, 0.13)):
        hilum = np.array([side * 0.30 * width, y + 8, carina[2] + length * height])
        tubes.append((carina, hilum, 5.8 * size))
        for out, back, down in ((0.5, -0.3, -0.12), (0.45, 0.45, 0.2), (0.52, -0.35, 0.14)):
            tip = np.array([side * out * width, back * anatomy.half_depth, hilum[2] + down * height])
            tip[:2] += rng.normal(0, 5, 2)
            tubes.append((hilum, tip, 2.6 * size))
    start, end, radius = zip(*tubes, strict=True)
    return Tubes(np.array(start), np.array(end), np.array(radius))


def paint_tubes(share: Array, tubes: Tubes, x: Array, y: Array, growth: Array | None = None) -> None:
    """Raise ``share`` [rows, columns] (0 to 1) in place to the part of each pixel that the tubes cover.

    ``x`` and ``y`` are the pixel centres in mm, evenly spaced. A tube thinner than a pixel covers only its part of it.
    ``growth`` [rows, columns] multiplies the radius where vessels are thickened.
    """
    if not len(tubes.radius):
        return
    pixel = float(x[1] - x[0])
    reach = (2 * tubes.radius + pixel)[:, None]
    start, end, corner = tubes.start[:, :2], tubes.end[:, :2], np.array([x[0], y[0]])
    first = np.maximum(((np.minimum(start, end) - reach - corner) / pixel).astype(int), 0)
    last = np.minimum(((np.maximum(start, end) + reach - corner) / pixel).astype(int) + 2, [len(x), len(y)])
    side = (last - first).max(1) * (last > first).all(1)
    bounds = (0, *_WINDOWS, max(len(x), len(y)))
    for low, high in pairwise(bounds):  # tubes of about one size at once
        indices = np.flatnonzero((side > low) & (side <= high))
        if len(indices):
            subset = Tubes(tubes.start[indices], tubes.end[indices], tubes.radius[indices])
            _paint_windows(share, subset, first[indices], int(side[indices].max()), x, y, growth)


def _paint_windows(
    share: Array, tubes: Tubes, first: NDArray[np.intp], side: int, x: Array, y: Array, growth: Array | None
) -> None:
    """Paint tubes within windows of ``side`` pixels from ``first`` [m, 2], column and row, on."""
    pixel = float(x[1] - x[0])
    steps = np.arange(side)
    columns = np.minimum(first[:, :1] + steps, len(x) - 1)[:, None, :]
    rows = np.minimum(first[:, 1:] + steps, len(y) - 1)[:, :, None]
    pixels = (rows * len(x) + columns).ravel()
    x0, y0 = tubes.start[:, :2].T.astype(np.float32)[:, :, None, None]
    bx, by = (tubes.end - tubes.start)[:, :2].T.astype(np.float32)[:, :, None, None]
    px, py = x[columns] - x0, y[rows] - y0
    fraction = np.clip((px * bx + py * by) / np.maximum(bx * bx + by * by, np.float32(1e-6)), 0, 1)
    distance = np.sqrt((px - fraction * bx) ** 2 + (py - fraction * by) ** 2)
    wide = tubes.radius[:, None, None]
    if growth is not None:
        wide = wide.astype(np.float32) * growth.ravel()[pixels].reshape(distance.shape)
    visible = np.maximum(wide, pixel / 2)  # a thinner tube is drawn one pixel wide and fainter
    cover = np.clip((visible - distance) / pixel + 0.5, 0, 1) * (wide / visible)
    np.maximum.at(share.reshape(-1), pixels, cover.ravel().astype(np.float32))
