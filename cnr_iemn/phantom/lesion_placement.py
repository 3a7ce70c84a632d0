"""Place the lesions of a disease in the lungs. No pixel is needed, so thousands of lesion tables are cheap."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES, Anatomy
from cnr_iemn.phantom.disease import RECIPES, SIZE_WITHIN, Signs, draw_signs
from cnr_iemn.phantom.lesions import Lesion, make_lesion, outward
from cnr_iemn.phantom.protocol import ScanProtocol

MEDIAN_MM = 18.5
"""Median of a drawn diameter. What makes a slice infected is the larger of two draws, so the table's median is 20."""
MM_PER_EXTRA = 4.0
"""Infected length for which each involved lobe gets one lesion more than it takes to show in every infected slice."""


@dataclass
class Placement:
    """The state of placing one scan's lesions."""

    rng: np.random.Generator
    anatomy: Anatomy
    depths: NDArray[np.float64]  # u of every slice
    infected: NDArray[np.bool_]
    signs: Signs
    points: NDArray[np.float64]  # candidates [m, 3] in the involved lobes
    lobe: NDArray[np.int8]
    pleura: NDArray[np.float64]  # distance to the costal pleura
    lesions: list[Lesion] = field(default_factory=list)

    def room(self, u: float) -> float:
        """Return how far a lesion at ``u`` may reach without touching a slice that is not infected."""
        clear = self.depths[~self.infected]
        return float(np.abs(clear - u).min()) - 0.5 if len(clear) else 999.0

    def add(self, u: float, lobes: frozenset[int], *, draws: int = 1) -> None:
        """Add a lesion near depth ``u`` in one of these lobes: the largest of ``draws``."""
        rng = self.rng
        kind, hu = self.kind()
        drawn = np.exp(rng.normal(np.log(MEDIAN_MM), SIZE_WITHIN, draws).max())
        diameter = float(np.clip(self.signs.size * drawn, 5, 80))
        near = np.abs(self.points[:, 2] - u) < 5
        allowed = near & np.isin(self.lobe, list(lobes))
        if not allowed.any():
            allowed = near if near.any() else np.abs(self.points[:, 2] - u) < 20
        if not allowed.any():
            return
        outer = rng.random() < (0.95 if self.signs.peripheral else 0.1)
        zone = self.pleura < 0.3 * diameter + 4 if outer else self.pleura > 20
        choice = np.flatnonzero(allowed & zone) if (allowed & zone).any() else np.flatnonzero(allowed)
        index = rng.choice(choice)
        point = self.points[index].copy()
        point[2] = u
        flat = rng.uniform(0.55, 0.85) if outer else rng.uniform(0.8, 1.1)
        tall = min(diameter / 2 * rng.uniform(0.8, 1.3), self.room(u))
        wide = diameter / 2 / np.sqrt(flat)
        self.lesions.append(
            make_lesion(
                rng,
                kind,
                LOBES[self.lobe[index]],
                point,
                (wide * flat, wide, max(tall, 1.0)),
                angle=outward(self.anatomy, point),
                hu=hu,
                peripheral=bool(self.pleura[index] < diameter / 2 + 6),
                thick_vessels=self.signs.vessels,
            )
        )

    def kind(self) -> tuple[str, float]:
        """Draw a lesion's kind and mean HU."""
        rng, signs = self.rng, self.signs
        if signs.tree_in_bud and rng.random() < 0.6:
            return "tree_in_bud", float(np.clip(rng.normal(-150, 60), -300, 0))
        if rng.random() < signs.consolidation:
            return "consolidation", float(np.clip(rng.normal(signs.dense, 60), -280, 90))
        return "ground_glass", float(np.clip(rng.normal(signs.density, 60), -720, -150))

    def uncovered(self) -> NDArray[np.intp]:
        """Return the infected slices that no lesion shows in well."""
        visible = np.zeros(len(self.depths), bool)
        for lesion in self.lesions:
            visible |= np.abs(self.depths - lesion.centre[2]) < 0.6 * lesion.radii[2]
        return np.flatnonzero(self.infected & ~visible)


def draw_infected(rng: np.random.Generator, signs: Signs, low: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Draw which of the slices ``low`` [n] (those that cut an involved lobe) are infected.

    The number of infected slices is the scan's extent; two to four runs with gaps unless all are in one run.
    """
    possible = np.flatnonzero(low)
    count = int(np.clip(round(signs.extent * len(low)), 1, len(possible)))
    spare = len(possible) - count
    runs = 1 if signs.one_run else min(int(rng.integers(2, 5)), count, spare + 1)
    gaps, cuts = np.zeros(0, int), np.zeros(0, int)
    if runs > 1:
        gaps = 1 + rng.multinomial(int(rng.integers(0, max(spare - runs + 2, 1)) * 0.5), np.ones(runs - 1) / (runs - 1))
        cuts = np.sort(rng.choice(np.arange(1, count), runs - 1, replace=False))
    infected = np.zeros(len(low), bool)
    start = possible[0] + int(rng.integers(0, spare - gaps.sum() + 1))
    lengths = np.diff([0, *cuts, count])
    for length, gap in zip(lengths, [*gaps, 0], strict=True):
        infected[start : start + length] = True
        start += length + gap
    return infected


def place_lesions(
    rng: np.random.Generator, label: str, anatomy: Anatomy, protocol: ScanProtocol
) -> tuple[list[Lesion], Signs | None]:
    """Return the disease of a scan of this class: its lesions and signs; nothing for a class without a recipe."""
    if label not in RECIPES:
        return [], None
    signs = draw_signs(rng, RECIPES[label])
    depths = np.array(protocol.depths())
    points = anatomy.sample(rng, 6000)
    x, y, u = anatomy.warp(points)
    lobe = anatomy.lobe(x, y, u)
    inside = np.isin(lobe, list(signs.lobes))
    ranges = {k: np.quantile(points[lobe == k, 2], [0.02, 0.98]) for k in signs.lobes}
    low, high = min(r[0] for r in ranges.values()), max(r[1] for r in ranges.values())
    cut = (depths > low) & (depths < high)
    if not cut.any():
        cut[np.abs(depths - (low + high) / 2).argmin()] = True
    tries = [draw_infected(rng, signs, cut) for _ in range(12)]
    met = [sum(bool(((depths > r[0]) & (depths < r[1]) & t).any()) for r in ranges.values()) for t in tries]
    placement = Placement(
        rng,
        anatomy,
        depths,
        tries[int(np.argmax(met))],
        signs,
        points[inside],
        lobe[inside],
        anatomy.pleural_depth(x, y, u)[inside].astype(float),
    )
    fill(placement, ranges)
    return placement.lesions, signs


def fill(placement: Placement, ranges: dict[int, NDArray[np.float64]]) -> None:
    """Give every involved lobe a lesion, then every infected slice, then some more."""
    rng, depths = placement.rng, placement.depths
    for lobe in sorted(ranges):
        depth_indices = np.flatnonzero(placement.infected & (depths > ranges[lobe][0]) & (depths < ranges[lobe][1]))
        if len(depth_indices):
            placement.add(depths[rng.choice(depth_indices)], frozenset({lobe}), draws=2)
    for _ in range(200):
        missing = placement.uncovered()
        if not len(missing):
            break
        placement.add(depths[rng.choice(missing)], placement.signs.lobes, draws=2)
    extent = placement.infected.sum() * (depths[1] - depths[0]) if len(depths) > 1 else 10.0
    for _ in range(rng.poisson(extent * len(ranges) / MM_PER_EXTRA)):
        placement.add(depths[rng.choice(np.flatnonzero(placement.infected))], placement.signs.lobes)
    if placement.signs.effusion:
        add_effusion(placement)


def add_effusion(placement: Placement) -> None:
    """Add fluid along the back of a diseased lung, within the infected slices of its lower half."""
    depths, height = placement.depths, placement.anatomy.height
    low = np.flatnonzero(placement.infected & (depths > 0.5 * height) & (depths < height))
    if len(low) < 2:
        return
    run = np.split(low, np.flatnonzero(np.diff(low) > 1) + 1)[-1]
    centre = float(depths[run].mean())
    lobe = placement.rng.choice(sorted({lesion.lobe for lesion in placement.lesions}))
    side = -1.0 if lobe[0] == "R" else 1.0
    half = min((depths[run[-1]] - depths[run[0]]) / 2 + 2.0, placement.room(centre))
    placement.lesions.append(
        make_lesion(
            placement.rng,
            "effusion",
            f"{lobe[0]}LL",
            np.array([side * 60, 80.0, centre]),
            (placement.rng.uniform(8, 24), 40.0, max(half, 2.0)),
            angle=0.0,
            hu=float(placement.rng.uniform(0, 25)),
        )
    )
