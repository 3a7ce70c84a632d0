"""Lesions put into healthy scans, denser and larger step by step: does the answer rise with them, and only there?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.insertion import insert_lesion
from cnr_iemn.cohort.phantom.lesions import Lesion, make_lesion
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.volume import Volume

DENSITIES_HU = (-700.0, -550.0, -400.0, -250.0, -100.0)
RADII_MM = (8.0, 12.0, 16.0, 20.0, 24.0)
"""One is changed at a time; the other has the middle value."""
PLACES = 3
"""Lesions of a scan, each alone in it."""

Infected = Callable[[Volume], NDArray[np.floating]]
"""Gives how infected a study holds each slice of a scan, [slices]."""


@dataclass(frozen=True)
class Insertion:
    """One lesion growing in one scan. ``touched``: mean over the slices it changes at its largest, without it and at
    each of the five steps; ``elsewhere``: largest change farther than a slice from them."""

    touched: NDArray[np.float64]
    elsewhere: float

    @property
    def monotone(self) -> bool:
        """Whether no step lowers it by more than a thousandth."""
        return bool((np.diff(self.touched) > -1e-3).all())


def lesion_at(centre: tuple[float, float, float], *, seed: int) -> Lesion:
    """Return a lesion of ground glass as the recipe makes them, of the middle size and density. ``centre``: in mm."""
    radius, rng = RADII_MM[2], np.random.default_rng(seed)
    facts = {"angle": float(rng.uniform(0, np.pi)), "hu": DENSITIES_HU[2]}
    return make_lesion(rng, "ground_glass", "RLL", np.array(centre), (0.8 * radius, radius, radius), **facts)


def steps_of(lesion: Lesion) -> dict[str, list[Lesion]]:
    """Return the lesion denser step by step, and larger."""
    sizes = [tuple(axis * radius / RADII_MM[2] for axis in lesion.radii) for radius in RADII_MM]
    return {
        "denser": [replace(lesion, hu=hu) for hu in DENSITIES_HU],
        "larger": [replace(lesion, radii=(one, two, three)) for one, two, three in sizes],
    }


def places(lungs: NDArray[np.bool_], spacing_mm: tuple[float, float, float], *, seed: int) -> list[Lesion]:
    """Return lesions in the middle of the lungs' height, at random."""
    there = np.flatnonzero(lungs.any(axis=(1, 2)))
    low, high = np.quantile(there, [0.3, 0.7])
    inside = np.argwhere(lungs)
    inside = inside[(inside[:, 0] >= low) & (inside[:, 0] <= high)]
    rng = np.random.default_rng(seed)
    chosen = inside[rng.integers(0, len(inside), PLACES)] * np.array(spacing_mm)
    return [lesion_at((float(x), float(y), float(z)), seed=seed + k) for k, (z, y, x) in enumerate(chosen)]


def insertions(volumes: Iterable[Volume], infected: Infected) -> dict[str, list[Insertion]]:
    """Return by way of growing what became of each lesion."""
    found: dict[str, list[Insertion]] = {"denser": [], "larger": []}
    for number, volume in enumerate(volumes):
        lungs = segment_lungs(volume.hu, volume.spacing_mm).mask
        without = infected(volume)
        for lesion in places(lungs, volume.spacing_mm, seed=number):
            for way, steps in steps_of(lesion).items():
                grown = [insert_lesion(volume, lungs, each) for each in steps]
                touched = grown[-1][1].any(axis=(1, 2))
                after = np.stack([without, *(infected(with_it) for with_it, _ in grown)])
                near = np.convolve(touched, [1, 1, 1], mode="same") > 0
                elsewhere = np.abs(after - without)[:, ~near].max(initial=0.0)
                found[way].append(Insertion(after[:, touched].mean(axis=1), float(elsewhere)))
    return found


def insertion_figures(found: list[Insertion]) -> dict[str, float | int]:
    """Return the row of the table."""
    mean = np.mean([each.touched for each in found], axis=0)
    steps = {"without": mean[0], **{f"step {k}": value for k, value in enumerate(mean[1:], 1)}}
    return {
        **{name: float(value) for name, value in steps.items()},
        "never falls": sum(each.monotone for each in found),
        "lesions": len(found),
        "elsewhere": max(each.elsewhere for each in found),
    }
