"""Render phantom scans: partial volumes, vessels, airways, lesions, point spread and noise, with truth and labels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES
from cnr_iemn.phantom.lesions import DISEASE_KINDS, FINDING_KINDS, OEDEMA, Lesion, ellipsoid_share, make_dense, soften
from cnr_iemn.phantom.protocol import noise_slice, smooth
from cnr_iemn.phantom.random_fields import Array, blend, coverage, stream
from cnr_iemn.phantom.render_body import AIR, paint_body, paint_bones, paint_inside, paint_table
from cnr_iemn.phantom.scan_spec import PUBLISHED, ScanSpec, lesion_table, make_scan_spec
from cnr_iemn.phantom.vessels import Tubes, draw_airways, draw_vessels, paint_tubes

FINE_ROWS = 96
"""Smaller images are rendered at least this fine and averaged over areas."""
LESION_AREA_MM2 = 40.0
"""A slice is infected where a lesion fills at least this area of a lobe."""
BRONCHUS = -900.0
"""HU within an open bronchus."""
READER_ERROR = 3
"""Largest error, in slices of a 150-slice scan, of the first and the last slice that the reader calls infected."""


@dataclass(frozen=True)
class PhantomScan:
    """A rendered scan, head first, with its truth.

    ``hu`` int16 [n, rows, rows]; ``spacing_mm`` step, row, column; ``z_mm`` float64 [n] falling; ``lungs`` bool and
    ``lesion_mask`` bool (every pixel a lesion reaches), as ``hu``; ``infected`` bool [n] and ``lobes`` bool [n, 5] (in
    the order of `anatomy.LOBES`) are true, ``labelled`` and ``labelled_lobes`` are as the reader reports them;
    ``lesions`` one row each.
    """

    spec: ScanSpec
    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    lungs: NDArray[np.bool_]
    lesion_mask: NDArray[np.bool_]
    infected: NDArray[np.bool_]
    lobes: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    labelled_lobes: NDArray[np.bool_]
    lesions: pd.DataFrame


class SliceRenderer:
    """Paints the slices of one scan without noise."""

    def __init__(self, spec: ScanSpec, rows: int, lesions: tuple[Lesion, ...]) -> None:
        self.spec, self.lesions = spec, lesions
        tree = stream(spec.seed, "vessels")
        self.vessels, self.airways = draw_vessels(tree, spec.anatomy), draw_airways(tree, spec.anatomy)
        self.factor = max(1, -(-FINE_ROWS // rows))
        self.pixel = spec.protocol.field_of_view / rows / self.factor
        offset = (np.arange(rows * self.factor) + 0.5) * self.pixel - spec.protocol.field_of_view / 2
        self.x = (offset + spec.protocol.centre[0]).astype(np.float32)
        self.y = (offset + spec.protocol.centre[1]).astype(np.float32)

    def render(self, u: float) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the slice at depth ``u``: HU, lungs, pixels that lesions reach, and the infected lobes [5]."""
        anatomy, protocol, pixel = self.spec.anatomy, self.spec.protocol, self.pixel
        flat_x, flat_y = np.meshgrid(self.x, self.y)
        x, y = flat_x + anatomy.warps[0].grid(self.x, self.y, u), flat_y + anatomy.warps[1].grid(self.x, self.y, u)
        image = np.full(x.shape, AIR, np.float32)
        paint_table(image, flat_x, flat_y, pixel, anatomy=anatomy, protocol=protocol)
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
        image = self.average(smooth(image, protocol.blur * self.factor))
        return image, self.average(lung) > 0.5, self.average(reach) > 0, infected

    def paint_lungs(self, x: Array, y: Array, u: float, lung: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the lungs' density in HU, the share that lesions fill and the infected lobes."""
        anatomy, spec = self.spec.anatomy, self.spec
        tissue = anatomy.mottle.grid(self.x, self.y, u) + anatomy.grain.grid(self.x, self.y, u)
        tissue += anatomy.parenchyma + anatomy.gravity * y / (2 * anatomy.half_depth)
        behind = np.maximum(anatomy.pleural_depth(x, y, u), 0) / np.clip(y / anatomy.half_depth, 0.05, 1)
        tissue += anatomy.dependent * np.exp(-behind / anatomy.dependent_mm)
        fissure = np.abs(anatomy.oblique(x, y, u)) * 0.75
        tissue += 70 * np.clip(1.2 - fissure, 0, 1) * np.minimum(1, 1.0 / self.pixel)
        reach, thick = np.zeros_like(lung), np.zeros_like(lung)
        infected = np.zeros(len(LOBES), bool)
        for opacity in spec.findings:
            self.add(tissue, opacity, x, y, u)
        for lesion in self.lesions:
            painted = self.add(tissue, lesion, x, y, u)
            if painted is None:
                continue
            window, share = painted
            np.maximum(reach[window], share, out=reach[window])
            if lesion.thick_vessels:
                np.maximum(thick[window], share, out=thick[window])
            if lesion.kind not in DISEASE_KINDS:
                continue
            area = float(((share * lung[window]) > 0.3).sum()) * self.pixel**2
            infected[LOBES.index(lesion.lobe)] |= area >= LESION_AREA_MM2
        vessels = np.zeros_like(lung)
        tubes = self.vessels.crossing(u, 1.0)
        paint_tubes(vessels, tubes, self.x, self.y, 1 + 0.8 * thick if thick.any() else None)
        blend(tissue, np.maximum(anatomy.blood, tissue), vessels)
        self.open_bronchi(tissue, reach, u)
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
        anatomy = self.spec.anatomy
        right = lesion.lobe[0] == "R"
        side = (x < 0) == right
        if lesion.layer:
            rise = 1 - ((u - lesion.centre[2]) / lesion.radii[2]) ** 2
            back = np.clip(y / anatomy.half_depth - 0.1, 0, 1)
            thickness = lesion.radii[0] * np.sqrt(rise) * back
            layer: Array = coverage(anatomy.pleural_depth(x, y, u) - thickness, 2 * self.pixel) * side * (thickness > 1)
            return layer
        share = ellipsoid_share(lesion, self.x[window[1]], self.y[window[0]], u)
        crosses = lesion.kind in (*FINDING_KINDS, OEDEMA)  # a fissure; disease keeps to its lobe
        lobe_mask = side if crosses else anatomy.lobe(x, y, u) == LOBES.index(lesion.lobe)
        soft: Array = (soften(share) * lobe_mask).astype(np.float32)
        return soft

    def open_bronchi(self, tissue: Array, reach: Array, u: float) -> None:
        """Fill the bronchi of consolidations with air, within the share ``reach`` that lesions fill."""
        for lesion in self.lesions:
            if lesion.bronchi is not None and abs(u - lesion.centre[2]) < lesion.radii[2]:
                air = np.zeros_like(tissue)
                paint_tubes(air, lesion.bronchi.crossing(u, 1.0), self.x, self.y)
                blend(tissue, BRONCHUS, air * reach)

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


def make_scan(
    seed: int, label: str, *, rows: int, n_slices: tuple[int, int], lesions: bool = True, disease: str = PUBLISHED
) -> PhantomScan:
    """Render the scan of this seed and class on a matrix of ``rows`` x ``rows``. ``disease``: see `make_scan_spec`.

    One seed gives one body, protocol, noise and set of chance findings for every class. ``lesions=False`` renders the
    twin without its disease.
    """
    spec = make_scan_spec(seed, label, n_slices=n_slices, disease=disease)
    return render_scan(spec, rows=rows, lesions=spec.lesions if lesions else ())


def render_scan(spec: ScanSpec, *, rows: int, lesions: tuple[Lesion, ...]) -> PhantomScan:
    """Render a planned scan with these lesions in place of its own; the noise is that of its seed."""
    n, depths = spec.protocol.n_slices, spec.protocol.depths()
    hu = np.empty((n, rows, rows), np.int16)
    lungs, touched = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    lobes = np.zeros((n, len(LOBES)), bool)
    noise = stream(spec.seed, "noise")
    renderer = SliceRenderer(spec, rows, lesions)
    for index, u in enumerate(depths):
        image, lungs[index], touched[index], lobes[index] = renderer.render(u)
        image += noise_slice(noise, rows, spec.protocol)
        hu[index] = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    labelled_lobes = simulate_reader(stream(spec.seed, "reader"), lobes)
    pixel = spec.protocol.field_of_view / rows
    return PhantomScan(
        spec=spec,
        hu=hu,
        spacing_mm=(spec.protocol.step, pixel, pixel),
        z_mm=np.array([spec.protocol.table_z - spec.protocol.step * k for k in range(n)]),
        lungs=lungs,
        lesion_mask=touched,
        infected=np.asarray(lobes.any(1)),
        lobes=lobes,
        labelled=np.asarray(labelled_lobes.any(1)),
        labelled_lobes=labelled_lobes,
        lesions=lesion_table(spec),
    )


def simulate_reader(rng: np.random.Generator, lobes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return lobe labels [n, 5] as a reader reports them: first and last infected slice in error by up to 3 of 150."""
    rows = np.flatnonzero(lobes.any(1))
    errors = rng.integers(-READER_ERROR, READER_ERROR + 1, 2)
    reported = lobes.copy()
    if not len(rows):
        return reported
    n = len(lobes)
    early, late = np.rint(errors * n / 150).astype(int)
    first, last = max(int(rows[0] + early), 0), min(int(rows[-1] + late), n - 1)
    if first > last:
        return reported
    reported[:first] = False
    reported[last + 1 :] = False
    reported[first : rows[0]] = lobes[rows[0]]
    reported[rows[-1] + 1 : last + 1] = lobes[rows[-1]]
    return reported
