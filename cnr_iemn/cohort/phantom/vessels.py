"""Pulmonary vessels and bronchi of the phantom: a tree that fills the lung, its radius falling by Murray's law."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.anatomy import Anatomy
from cnr_iemn.cohort.phantom.fields import Array


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
        ends = np.stack([(u - reach - start[:, 2]) / fall, (u + reach - start[:, 2]) / fall])
        first, last = np.clip(ends.min(0), 0, 1)[:, None], np.clip(ends.max(0), 0, 1)[:, None]
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
    starts, ends, radii = [], [], []
    while True:
        share = rng.uniform(0.3, 0.55, (len(groups), 1)) if groups.shape[1] > 1 else 1.0
        tips = nodes + share * (groups.mean(1) - nodes)
        starts.append(nodes)
        ends.append(tips)
        radii.append(np.full(len(groups), thinnest * groups.shape[1] ** (1 / 3)))
        if groups.shape[1] == 1:
            return Tubes(np.concatenate(starts), np.concatenate(ends), np.concatenate(radii))
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
    parts = [(top, carina, 8.0 * size)]
    for side, length in ((-1, 0.10), (1, 0.13)):
        hilum = np.array([side * 0.30 * width, y + 8, carina[2] + length * height])
        parts.append((carina, hilum, 5.8 * size))
        for out, back, down in ((0.5, -0.3, -0.12), (0.45, 0.45, 0.2), (0.52, -0.35, 0.14)):
            tip = np.array([side * out * width, back * anatomy.half_depth, hilum[2] + down * height])
            tip[:2] += rng.normal(0, 5, 2)
            parts.append((hilum, tip, 2.6 * size))
    start, end, radius = zip(*parts, strict=True)
    return Tubes(np.array(start), np.array(end), np.array(radius))


def paint_tubes(share: Array, tubes: Tubes, x: Array, y: Array, growth: Array | None = None) -> None:
    """Raise ``share`` [rows, columns] (0 to 1) in place to the part of each pixel that the tubes cover.

    ``x`` and ``y`` are the pixel centres in mm, evenly spaced. A tube thinner than a pixel covers only its part of it.
    ``growth`` [rows, columns] multiplies the radius where vessels are thickened.
    """
    pixel = float(x[1] - x[0])
    for (x0, y0, _), (x1, y1, _), thickness in zip(tubes.start, tubes.end, tubes.radius, strict=True):
        radius = float(thickness)
        reach = 2 * radius + pixel
        left = max(int((min(x0, x1) - reach - x[0]) / pixel), 0)
        right = int((max(x0, x1) + reach - x[0]) / pixel) + 2
        up = max(int((min(y0, y1) - reach - y[0]) / pixel), 0)
        down = int((max(y0, y1) + reach - y[0]) / pixel) + 2
        px, py = x[None, left:right] - np.float32(x0), y[up:down, None] - np.float32(y0)
        if not (px.size and py.size):
            continue
        bx, by = np.float32(x1 - x0), np.float32(y1 - y0)
        along = np.clip((px * bx + py * by) / max(bx * bx + by * by, 1e-6), 0, 1)
        distance = np.sqrt((px - along * bx) ** 2 + (py - along * by) ** 2)
        wide = radius if growth is None else radius * growth[up:down, left:right]
        visible = np.maximum(wide, pixel / 2)  # a thinner tube is drawn one pixel wide and fainter
        cover = np.clip((visible - distance) / pixel + 0.5, 0, 1) * (wide / visible)
        part = share[up:down, left:right]
        np.maximum(part, cover, out=part)
