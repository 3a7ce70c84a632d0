"""What each class adds to a healthy phantom: the only part that knows the class.

Numbers: the slice and lobe labels published with COVID-CT-MD (54 COVID-19 and 25 CAP scans), Bai et al. 2020
(Radiology, doi 10.1148/radiol.2020200823) for peripherality, ground glass and vessel thickening against other
pneumonia; Zhu et al. 2020 (doi 10.21203/rs.3.rs-29838) for which other signs differ. The density of ground
glass and the size of lesions overlap wholly between the classes.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES


@dataclass(frozen=True)
class Recipe:
    """One disease. Shares of scans 0 to 1; ``extent``: infected slices of 150 at the quantiles `EXTENT_AT`."""

    extent: tuple[float, ...]
    one_run: float
    bilateral: float
    lobe_counts: tuple[float, ...]  # scans with 1 to 5 lobes
    lobes: tuple[float, ...]  # share of scans with each of LOBES involved
    peripheral: float
    ground_glass: float
    consolidation: float  # where there is ground glass; without it all lesions are consolidations
    vessels: float
    tree_in_bud: float
    effusion: float


SIZE_BETWEEN, SIZE_WITHIN = 0.25, 0.49
"""Deviations of the logarithm of a lesion's diameter, of scans and of the lesions of one: together 0.55.

Patients differ in the size of their lesions, so that the volume of disease does not tell how many slices it takes.
"""
EXTENT_AT = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

RECIPES = {
    "COVID-19": Recipe(
        extent=(18, 29, 48, 70, 94, 109, 122),
        one_run=24 / 54,
        bilateral=42 / 54,
        lobe_counts=(10, 7, 9, 8, 20),
        lobes=(0.78, 0.70, 0.85, 0.50, 0.56),
        peripheral=0.80,
        ground_glass=0.91,
        consolidation=0.50,
        vessels=0.58,
        tree_in_bud=0.03,
        effusion=0.04,
    ),
    "CAP": Recipe(
        extent=(9, 16, 28, 46, 61, 89, 104),
        one_run=15 / 25,
        bilateral=14 / 25,
        lobe_counts=(8, 9, 6, 2, 0),
        lobes=(0.52, 0.20, 0.72, 0.28, 0.36),
        peripheral=0.57,
        ground_glass=0.68,
        consolidation=0.50,
        vessels=0.22,
        tree_in_bud=0.30,
        effusion=0.35,
    ),
}

SUBSETS = tuple(frozenset(s) for size in range(1, 6) for s in combinations(range(5), size))
"""All sets of involved lobes, as indices into `LOBES`."""


def is_bilateral(lobes: frozenset[int]) -> bool:
    """Return whether lobes of both lungs are among these indices."""
    return len({LOBES[index][0] for index in lobes}) > 1


@lru_cache
def subset_probabilities(recipe: Recipe) -> tuple[float, ...]:
    """Return the probability of each of `SUBSETS` that meets the recipe's counts, lobe shares and bilateral share.

    Of all such distributions the one of maximum entropy, by iterative proportional fitting.
    """
    counts = np.array(recipe.lobe_counts) / sum(recipe.lobe_counts)
    targets = [(np.array([len(s) == k + 1 for s in SUBSETS]), counts[k]) for k in range(5)]
    targets += [(np.array([k in s for s in SUBSETS]), recipe.lobes[k]) for k in range(5)]
    targets += [(np.array([is_bilateral(s) for s in SUBSETS]), recipe.bilateral)]
    share = np.ones(len(SUBSETS)) / len(SUBSETS)
    for _ in range(300):
        for member, target in targets:
            inside = share[member].sum()
            share = np.where(member, share * (target / inside if inside else 0), share * (1 - target) / (1 - inside))
    return tuple(share / share.sum())


@dataclass(frozen=True)
class Signs:
    """What is drawn for one diseased scan before any lesion has a place."""

    lobes: frozenset[int]
    extent: float  # infected share of the slices
    one_run: bool
    peripheral: bool
    ground_glass: bool
    consolidation: float  # share of lesions that are consolidated
    vessels: bool
    tree_in_bud: bool
    effusion: bool
    size: float  # factor on the diameters of the scan's lesions
    density: float  # HU, mean of the scan's ground glass
    dense: float  # HU, mean of the scan's consolidations


def draw_signs(rng: np.random.Generator, recipe: Recipe) -> Signs:
    """Draw the signs of one scan. More lobes go with a longer extent (rank correlation about 0.6)."""
    subset = SUBSETS[rng.choice(len(SUBSETS), p=subset_probabilities(recipe))]
    counts = np.cumsum([0, *recipe.lobe_counts]) / sum(recipe.lobe_counts)
    place = rng.uniform(counts[len(subset) - 1], counts[len(subset)])
    extent = np.interp(0.6 * place + 0.4 * rng.random(), *_rank_table())
    peripheral, ground_glass, vessels = draw_together(rng, (recipe.peripheral, recipe.ground_glass, recipe.vessels))
    consolidated = bool(rng.random() < recipe.consolidation)
    share = rng.uniform(0.2, 0.8)
    return Signs(
        lobes=subset,
        extent=float(np.interp(extent, EXTENT_AT, recipe.extent)) / 150,
        one_run=bool(rng.random() < recipe.one_run),
        peripheral=peripheral,
        ground_glass=ground_glass,
        consolidation=share * consolidated if ground_glass else 1.0,
        vessels=vessels,
        tree_in_bud=bool(rng.random() < recipe.tree_in_bud),
        effusion=bool(rng.random() < recipe.effusion),
        size=float(np.exp(rng.normal(0, SIZE_BETWEEN))),
        density=float(rng.normal(-450, 80)),
        dense=float(rng.normal(-50, 80)),
    )


def draw_together(rng: np.random.Generator, shares: tuple[float, ...]) -> tuple[bool, ...]:
    """Draw signs, each present in its share of scans, that tend to occur together (correlation 0.6 of the normals).

    Typical cases show several of them: a second sign tells less than it would were they independent.
    """
    common, separate = rng.normal(), rng.normal(size=len(shares))
    return tuple(bool(NormalDist().cdf(0.77 * common + 0.64 * o) < s) for o, s in zip(separate, shares, strict=True))


@lru_cache
def _rank_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distribution function of 0.6 U + 0.4 V for uniform U and V, which makes such a sum uniform again."""
    grid = np.linspace(0, 1, 201)
    mixed = np.add.outer(0.6 * (grid[1:] - 0.0025), 0.4 * (grid[1:] - 0.0025)).ravel()
    return grid, np.searchsorted(np.sort(mixed), grid) / mixed.size
