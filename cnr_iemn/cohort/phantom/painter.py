"""Render the slices of a phantom scan: partial volumes, vessels, airways, lesions and point spread; no noise."""

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.acquisition import smooth
from cnr_iemn.cohort.phantom.anatomy import LOBES
from cnr_iemn.cohort.phantom.body import AIR, paint_body, paint_bones, paint_inside, paint_table
from cnr_iemn.cohort.phantom.fields import Array, blend, coverage, stream
from cnr_iemn.cohort.phantom.lesions import Lesion, ellipsoid_share, make_dense, soften
from cnr_iemn.cohort.phantom.plan import Plan
from cnr_iemn.cohort.phantom.vessels import Tubes, draw_airways, draw_vessels, paint_tubes

FINE_ROWS = 96
"""Smaller images are rendered at least this fine and averaged over areas."""
LESION_AREA_MM2 = 40.0
"""A slice is infected where a lesion fills at least this area of a lobe."""


class SlicePainter:
    """Paints the slices of one scan without noise."""

    def __init__(self, plan: Plan, rows: int, lesions: tuple[Lesion, ...]) -> None:
        self.plan, self.lesions = plan, lesions
        tree = stream(plan.seed, "vessels")
        self.vessels, self.airways = draw_vessels(tree, plan.anatomy), draw_airways(tree, plan.anatomy)
        self.factor = max(1, -(-FINE_ROWS // rows))
        self.pixel = plan.acquisition.field_of_view / rows / self.factor
        offset = (np.arange(rows * self.factor) + 0.5) * self.pixel - plan.acquisition.field_of_view / 2
        self.x = (offset + plan.acquisition.centre[0]).astype(np.float32)
        self.y = (offset + plan.acquisition.centre[1]).astype(np.float32)

    def paint(self, u: float) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the slice at depth ``u``: HU, lungs, pixels that lesions reach, and the infected lobes [5]."""
        anatomy, acquisition, pixel = self.plan.anatomy, self.plan.acquisition, self.pixel
        flat_x, flat_y = np.meshgrid(self.x, self.y)
        x, y = flat_x + anatomy.warps[0].grid(self.x, self.y, u), flat_y + anatomy.warps[1].grid(self.x, self.y, u)
        image = np.full(x.shape, AIR, np.float32)
        paint_table(image, flat_x, flat_y, pixel, anatomy=anatomy, acquisition=acquisition)
        cage = paint_body(image, x, y, u, pixel, anatomy=anatomy)
        paint_inside(image, x, y, u, pixel, anatomy=anatomy, cage=cage)
        paint_bones(image, x, y, u, pixel, anatomy=anatomy, cage=cage)
        lung = np.zeros_like(image)
        reach, infected = np.zeros_like(image), np.zeros(len(LOBES), bool)
        if 0 < u < anatomy.height:
            lung = coverage(anatomy.lungs(x, y, u), pixel)
            tissue, reach, infected = self.paint_lungs(x, y, u, lung)
            blend(image, tissue, lung)
        self.paint_airways(image, u)
        image = self.average(smooth(image, acquisition.blur * self.factor))
        return image, self.average(lung) > 0.5, self.average(reach) > 0, infected

    def paint_lungs(self, x: Array, y: Array, u: float, lung: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the lungs' density in HU, the share that lesions fill and the infected lobes."""
        anatomy, plan = self.plan.anatomy, self.plan
        tissue = anatomy.mottle.grid(self.x, self.y, u) + anatomy.grain.grid(self.x, self.y, u)
        tissue += anatomy.parenchyma + anatomy.gravity * y / (2 * anatomy.half_depth)
        behind = np.maximum(anatomy.pleural_depth(x, y, u), 0) / np.clip(y / anatomy.half_depth, 0.05, 1)
        tissue += anatomy.dependent * np.exp(-behind / anatomy.dependent_mm)
        fissure = np.abs(anatomy.oblique(x, y, u)) * 0.75
        tissue += 70 * np.clip(1.2 - fissure, 0, 1) * np.minimum(1, 1.0 / self.pixel)
        reach, thick = np.zeros_like(lung), np.zeros_like(lung)
        infected = np.zeros(len(LOBES), bool)
        for opacity in plan.findings:
            self.add(tissue, opacity, x, y, u)
        for lesion in self.lesions:
            placed = self.add(tissue, lesion, x, y, u)
            if placed is None:
                continue
            window, share = placed
            np.maximum(reach[window], share, out=reach[window])
            if lesion.thick_vessels:
                np.maximum(thick[window], share, out=thick[window])
            area = float(((share * lung[window]) > 0.3).sum()) * self.pixel**2
            infected[LOBES.index(lesion.lobe)] |= area >= LESION_AREA_MM2
        vessels = np.zeros_like(lung)
        tubes = self.vessels.crossing(u, 1.0)
        paint_tubes(vessels, tubes, self.x, self.y, 1 + 0.8 * thick if thick.any() else None)
        blend(tissue, np.maximum(anatomy.blood, tissue), vessels)
        return tissue, reach * (lung > 0), infected

    def add(
        self, tissue: Array, lesion: Lesion, x: Array, y: Array, u: float
    ) -> tuple[tuple[slice, slice], Array] | None:
        """Raise ``tissue`` to the lesion's density; return the window and its filled share, None if away."""
        cx, cy, cu = lesion.centre
        wide = 200.0 if lesion.layer else 1.5 * max(lesion.radii[:2])
        if abs(u - cu) >= lesion.radii[2]:
            return None
        columns = slice(*np.searchsorted(self.x, [cx - wide, cx + wide]))
        rows = slice(*np.searchsorted(self.y, [cy - wide, cy + wide]))
        window = (rows, columns)
        if not tissue[window].size:
            return None
        share = self.shape(lesion, window, x[window], y[window], u)
        return window, make_dense(tissue[window], lesion, share, self.x[columns], self.y[rows], u)

    def shape(self, lesion: Lesion, window: tuple[slice, slice], x: Array, y: Array, u: float) -> Array:
        """Return the share (0 to 1) of each pixel of the window that the lesion fills."""
        anatomy = self.plan.anatomy
        right = lesion.lobe[0] == "R"
        side = (x < 0) == right
        if lesion.layer:
            rise = 1 - ((u - lesion.centre[2]) / lesion.radii[2]) ** 2
            back = np.clip(y / anatomy.half_depth - 0.1, 0, 1)
            thickness = lesion.radii[0] * np.sqrt(rise) * back
            layer: Array = coverage(anatomy.pleural_depth(x, y, u) - thickness, 2 * self.pixel) * side * (thickness > 1)
            return layer
        share = ellipsoid_share(lesion, self.x[window[1]], self.y[window[0]], u)
        chance = lesion.kind in ("scar", "nodule")  # these may cross a fissure, disease keeps to its lobe
        own = side if chance else anatomy.lobe(x, y, u) == LOBES.index(lesion.lobe)
        soft: Array = (soften(share) * own).astype(np.float32)
        return soft

    def paint_airways(self, image: Array, u: float) -> None:
        """Paint the walls and the air of trachea and bronchi."""
        tubes = self.airways.crossing(u, 1.0)
        for extra, value in ((1.1, 0.0), (0.0, -985.0)):
            share = np.zeros_like(image)
            paint_tubes(share, Tubes(tubes.start, tubes.end, tubes.radius + extra), self.x, self.y)
            blend(image, value, share)

    def average(self, image: Array) -> Array:
        """Return the area average over the fine pixels of each pixel."""
        if self.factor == 1:
            return image
        rows = image.shape[0] // self.factor
        mean: Array = image.reshape(rows, self.factor, rows, self.factor).mean((1, 3), dtype=np.float32)
        return mean
