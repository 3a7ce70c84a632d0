"""Opacities whose classes differ in shape, place and number, and in nothing that density shows.

Between which slices of each lung opacities lie, how much of the lung there is opaque and how much of that is
consolidated is drawn before the class is looked at. COVID-19 then lays it out as patches along the whole pleura, some
with a consolidated middle. CAP lays out the same as a wedge-shaped consolidation with open bronchi and a ground-glass
margin at the back of one lobe of each lung, at times with tree-in-bud and an effusion. Normal scans have it as oedema
in front of the hilum, which is no disease here, so that density does not tell disease from its absence either.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES, Anatomy
from cnr_iemn.phantom.lesions import OEDEMA, Lesion, layer_at, make_lesion, outward, share_at
from cnr_iemn.phantom.opacity_size import Amount, Points, Site, consolidated_middle, fitted, resized
from cnr_iemn.phantom.random_fields import Waves
from cnr_iemn.phantom.vessels import grow_tree

BILATERAL = 0.9
"""Share of scans with opacities in both lungs; in the others one lung alone has them."""
LOBE_SHARES = {"L": {"LLL": 0.6, "LUL": 0.4}, "R": {"RLL": 0.6, "RUL": 0.4}}
"""How often a lobe's height holds a lung's opacities. The middle lobe is too small for a segment of their volume."""
LOBE_SIDES = np.array([name[0] for name in LOBES])
PATCH_VOLUME, PATCH_DENSE, OEDEMA_VOLUME, OEDEMA_DENSE = 0.98, 0.95, 1.0, 1.5
"""Factors on the volume of patches and of oedema, and on the consolidated part of each.

Found so that the lung masks of all classes hold the same HU: beside consolidation at the pleura a mask takes some of
the chest wall, beside the heart it leaves some out, and within a segment bronchi are open.
"""
TREE_IN_BUD, EFFUSION = 0.2, 0.3
"""Shares of the segments of CAP with tree-in-bud in their lobe, and of those of a lower lobe with an effusion."""
TAPER = 0.6
"""Of a segment's consolidation: its width at the hilum is 0.4 of that in its middle, at the pleura 1.6."""
PER_LEVEL = 3
"""Patches at each level of a lobe."""
BRONCHUS_MM = 1.6
"""Radius of the thinnest open bronchus in a consolidation."""
BUD_WAVES_MM, BUD_SHARE = (9.0, 16.0), 0.24
"""Wavelengths of tree-in-bud, whose buds are about half as wide, and the share of its region that buds fill."""
POINTS = 10_000
"""Random points in the lungs by which volumes are measured: a lesion of 3% of the lungs to within 5%."""


@dataclass(frozen=True)
class Burden:
    """What is drawn of a scan's opacities without its class.

    ``lobes``: indices into `LOBES`, one of each lung. ``runs``: first and last depth u in mm of opacities, within these
    lobes. ``shares``: of each lung between these depths that is opaque, 0 to 1.
    """

    amount: Amount
    lobes: tuple[int, ...]
    shares: tuple[float, ...]
    runs: tuple[tuple[float, float], ...]


def draw_burden(rng: np.random.Generator, points: Points, lobe: NDArray[np.int8]) -> Burden:
    """Draw a scan's burden. ``points``: [m, 3] uniform in the lungs; ``lobe``: of each, an index into `LOBES`."""
    amount = Amount.draw(rng)
    sides = ["L", "R"] if rng.random() < BILATERAL else [str(rng.choice(["L", "R"]))]
    lobes, runs = [], []
    for side in sides:
        name = rng.choice(list(LOBE_SHARES[side]), p=list(LOBE_SHARES[side].values()))
        lobes.append(LOBES.index(str(name)))
        low, high = np.quantile(points[lobe == lobes[-1], 2], [0.03, 0.97])
        length = rng.uniform(0.55, 0.95) * (high - low)
        start = low + rng.uniform(0, high - low - length)
        runs.append((float(start), float(start + length)))
    left = float(rng.uniform(0.4, 0.6))
    return Burden(
        amount=amount,
        lobes=tuple(lobes),
        shares=(2 * left * amount.share, 2 * (1 - left) * amount.share) if len(lobes) > 1 else (amount.share,),
        runs=tuple(runs),
    )


def place_clear_lesions(rng: np.random.Generator, label: str, anatomy: Anatomy) -> tuple[list[Lesion], Burden]:
    """Return the opacities of a scan of class ``label``, one of SPGC_CLASSES, and its burden."""
    points = anatomy.sample(rng, POINTS)
    x, y, u = anatomy.warp(points)
    lobe = anatomy.lobe(x, y, u)
    pleura = anatomy.pleural_depth(x, y, u).astype(float)
    burden = draw_burden(rng, points, lobe)
    lesions: list[Lesion] = []
    for index, share, run in zip(burden.lobes, burden.shares, burden.runs, strict=True):
        lung = LOBE_SIDES[lobe] == LOBE_SIDES[index]
        filled = share * float((lung & (points[:, 2] > run[0]) & (points[:, 2] < run[1])).sum())
        site = Site(anatomy, index, points[lung], pleura[lung], lobe[lung], run, filled, filled * burden.amount.dense)
        lesions += PLACE[label](rng, site, burden.amount)
    return lesions, burden


def place_oedema(rng: np.random.Generator, site: Site, amount: Amount) -> list[Lesion]:
    """Return ground glass in the front half of the lung beside the mediastinum, with a consolidated part."""
    first, last = site.run
    middle = (first + last) / 2
    near = np.argsort(np.abs(site.points[:, 2] - middle))[:400]
    front = near[site.points[near, 1] < np.median(site.points[near, 1])]
    deepest = front[np.argsort(site.pleura[front])[-100:]]
    centre = np.array([*site.points[deepest, :2].mean(0), middle])
    radii = (16.0, 28.0, (last - first) / 2)
    angle = outward(site.anatomy, centre)
    whole = make_lesion(rng, OEDEMA, site.name, centre, radii, angle=angle, hu=amount.glass_hu)
    whole = replace(whole, rim=amount.glass_rim, blunt=True)
    whole = fitted(site, OEDEMA_VOLUME * site.filled, whole, partial(resized, whole))

    # the outer part, since the lung mask leaves out what is dense beside the mediastinum
    thick, wide, tall = whole.radii
    out = 0.4 * thick * np.array([np.cos(angle), np.sin(angle)])
    x, y = (float(value) for value in centre[:2] + out)

    def fill(k: float) -> Lesion:
        radii = (0.6 * thick * k, wide * k, tall * min(k, 1.0))
        return replace(consolidated_middle(whole, amount, k), kind=OEDEMA, centre=(x, y, middle), radii=radii)

    return [whole, fitted(site, OEDEMA_DENSE * site.consolidated, whole, fill)]


def place_patches(rng: np.random.Generator, site: Site, amount: Amount) -> list[Lesion]:
    """Return patches along the pleura, three at a level over the whole run, some with a consolidated middle.

    Those of a level hold what a segment's consolidation, blunt and of the same run, has between the same depths.
    """
    first, last = site.run
    levels = int(np.clip(round((last - first) / 28), 3, 6))
    bounds = np.linspace(-1, 1, levels + 1)
    volumes = np.repeat(np.diff(bounds - bounds**5 / 5) * 0.625, PER_LEVEL) / PER_LEVEL
    count = levels * PER_LEVEL
    half = (last - first) / 2
    patches: list[Lesion] = []
    for index in range(count):
        level = index // PER_LEVEL
        middle = first + half * (1 + (bounds[level] + bounds[level + 1]) / 2)
        candidates = rng.choice(_at_pleura(site, middle), 12)
        if patches:
            centres = np.array([patch.centre for patch in patches])
            candidates = candidates[np.linalg.norm(candidates[:, None] - centres, axis=2).min(1).argmax()][None]
        lobe = site.lobe_at(candidates[0])
        tall = half / levels * rng.uniform(1.1, 1.5)
        patch = make_lesion(
            rng,
            "ground_glass",
            lobe,
            candidates[0],
            (7.0, 18.0, tall),
            angle=outward(site.anatomy, candidates[0]),
            hu=amount.glass_hu,
            peripheral=True,
        )
        patches.append(replace(patch, rim=amount.glass_rim, blunt=True))
    patches = _together(site, PATCH_VOLUME * volumes * site.filled, patches)
    mixed = rng.permutation(count)[: count // 2 + 1]
    share = PATCH_DENSE * site.consolidated / site.filled / volumes[mixed].sum()
    for index in mixed:
        patch, volume = patches[index], min(share, 0.9) * volumes[index] * site.filled
        patches.append(fitted(site.within(patch.lobe), volume, patch, partial(consolidated_middle, patch, amount)))
    return patches


def _together(site: Site, volumes: Points, patches: list[Lesion]) -> list[Lesion]:
    """Return the patches at the size at which each fills its number of points, where two overlap once."""
    outlines = [patch.edge.at(site.points) for patch in patches]
    lost = 1.0
    for _ in range(3):
        patches = [
            fitted(site.within(p.lobe), lost * w, p, partial(resized, p)) for w, p in zip(volumes, patches, strict=True)
        ]
        shares = [share_at(p, site.points, o) * site.lobe_mask(p.lobe) for p, o in zip(patches, outlines, strict=True)]
        lost *= volumes.sum() / max(np.maximum.reduce(shares).sum(), 1.0)
    return patches


def place_segment(rng: np.random.Generator, site: Site, amount: Amount) -> list[Lesion]:
    """Return the consolidation of a segment with its ground-glass margin, and at times what accompanies it.

    All of it lies in the site's own lobe. Tree-in-bud and effusion take their share of the diseased and of the
    consolidated volume.
    """
    site = site.within(site.name)
    companions: list[Lesion] = []
    if rng.random() < TREE_IN_BUD:
        companions.append(place_buds(rng, site, amount))
    if rng.random() < EFFUSION and site.name[1:] == "LL":
        companions.append(place_effusion(rng, site))
    occupied = sum(_volume(lesion, site) for lesion in companions)
    occupied = min(occupied, 0.5 * site.consolidated)
    margin = place_wedge(rng, site, amount, site.filled - occupied)
    dense = fitted(site, site.consolidated - occupied, margin, partial(consolidated_middle, margin, amount))
    inside = site.points[share_at(dense, site.points, dense.edge.at(site.points)) > 0.9]
    if len(inside):
        out = np.array([np.cos(dense.angle), np.sin(dense.angle), 0.0])
        root = dense.centre - 1.2 * dense.radii[0] * out
        dense = replace(dense, bronchi=grow_tree(rng, rng.choice(inside, 8), root, BRONCHUS_MM))
    return [margin, dense, *companions]


def place_wedge(rng: np.random.Generator, site: Site, amount: Amount, volume: float) -> Lesion:
    """Return ground glass from near the hilum to the pleura behind, broadest there, that fills ``volume`` points."""
    first, last = site.run
    middle = (first + last) / 2
    hilum = np.array([site.side * 0.26 * site.anatomy.half_width, 0.05 * site.anatomy.half_depth])
    candidates = _at_pleura(site, middle)
    outer = rng.choice(candidates[candidates[:, 1] >= np.quantile(candidates[:, 1], 0.6)])
    reach = outer[:2] - hilum
    distance = float(np.linalg.norm(reach))
    whole = make_lesion(
        rng,
        "ground_glass",
        site.name,
        outer,
        (0.42 * distance, 0.25 * distance, (last - first) / 2 + 2),
        angle=float(np.arctan2(reach[1], reach[0])),
        hu=amount.glass_hu,
    )
    whole = replace(whole, rim=amount.glass_rim, blunt=True)

    def grow(k: float) -> Lesion:
        depth, width = whole.radii[0] * min(k**0.5, 1.15), whole.radii[1] * k
        x, y = outer[:2] - 0.85 * depth * reach / distance
        centre = (float(x), float(y), middle)
        return replace(whole, centre=centre, radii=(depth, width, whole.radii[2]), taper=TAPER)

    return fitted(site, volume, whole, grow)


def place_buds(rng: np.random.Generator, site: Site, amount: Amount) -> Lesion:
    """Return a region of tree-in-bud anywhere in the lobe within the run."""
    first, last = site.run
    half = min(20.0, (last - first) / 2)
    middle = rng.uniform(first + half, last - half) if last - first > 2 * half else (first + last) / 2
    near = site.points[(np.abs(site.points[:, 2] - middle) < 10) & (site.pleura > 12)]
    point = (rng.choice(near) if len(near) else rng.choice(_at_pleura(site, middle))).copy()
    point[2] = middle
    radii = (float(rng.uniform(16, 22)), float(rng.uniform(16, 22)), half)
    buds = make_lesion(rng, "tree_in_bud", site.name, point, radii, angle=0.0, hu=amount.dense_hu)
    return replace(buds, texture=Waves.draw(rng, count=10, wavelength_mm=BUD_WAVES_MM, deviation=1))


def place_effusion(rng: np.random.Generator, site: Site) -> Lesion:
    """Return fluid behind the lower half of the lobe."""
    first, last = site.run
    centre, half = np.array([60.0 * site.side, 80.0, 0.35 * first + 0.65 * last]), 0.35 * (last - first)
    radii = (float(rng.uniform(10, 18)), 40.0, half)
    return make_lesion(rng, "effusion", site.name, centre, radii, angle=0.0, hu=float(rng.uniform(0, 25)))


PLACE = {"Normal": place_oedema, "COVID-19": place_patches, "CAP": place_segment}
"""How each class lays out its burden in a lobe."""


def _at_pleura(site: Site, middle: float) -> Points:
    """Return the site's points near the pleura at depth u = ``middle``, or the nearest to that; [m, 3], u = middle."""
    far = np.abs(site.points[:, 2] - middle)
    near = np.flatnonzero((far < 12) & (site.pleura < 8))
    nearest = site.points[near if len(near) else np.argsort(far + 2 * site.pleura)[:20]].copy()
    nearest[:, 2] = middle
    return nearest


def _volume(lesion: Lesion, site: Site) -> float:
    """Return about how many of the site's points a lesion beside the segment fills."""
    if lesion.kind == "tree_in_bud":
        return BUD_SHARE * float(share_at(lesion, site.points, lesion.edge.at(site.points)).sum())
    return float(layer_at(lesion, site.points, site.pleura, site.anatomy.half_depth).sum())
