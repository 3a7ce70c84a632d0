"""Response of a study to lesions of increasing density and size that are inserted into healthy scans."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.insert_lesion import insert_lesion
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.volume import Volume
from cnr_iemn.phantom.lesions import Lesion, make_lesion

DENSITIES_HU = (-700.0, -550.0, -400.0, -250.0, -100.0)
RADII_MM = (8.0, 12.0, 16.0, 20.0, 24.0)
"""One of the two varies; the other has its middle value."""
LESIONS_PER_SCAN = 3
"""Each is inserted alone."""

SliceScores = Callable[[Volume], NDArray[np.floating]]
"""Function that returns a study's probability of infection of each slice, [slices]."""


@dataclass(frozen=True)
class Insertion:
    """Probabilities of infection while one lesion grows in one scan.

    Attributes:
        probabilities: Mean over the slices that the last lesion changes: without a lesion and at each step, [6].
        change_elsewhere: The largest change in slices that are not adjacent to these.
    """

    probabilities: NDArray[np.float64]
    change_elsewhere: float

    @property
    def monotone(self) -> bool:
        """Whether no step lowers the probability by more than 0.001."""
        return bool((np.diff(self.probabilities) > -1e-3).all())


def ground_glass_lesion(centre: tuple[float, float, float], *, seed: int) -> Lesion:
    """Return a ground glass lesion of the middle size and density. ``centre``: in mm."""
    radius, rng = RADII_MM[2], np.random.default_rng(seed)
    radii, angle = (0.8 * radius, radius, radius), float(rng.uniform(0, np.pi))
    return make_lesion(rng, "ground_glass", "RLL", np.array(centre), radii, angle=angle, hu=DENSITIES_HU[2])


def growth_steps(lesion: Lesion) -> dict[str, list[Lesion]]:
    """Return versions of the lesion with increasing density, and with increasing size."""
    sizes = [tuple(axis * radius / RADII_MM[2] for axis in lesion.radii) for radius in RADII_MM]
    return {
        "denser": [replace(lesion, hu=hu) for hu in DENSITIES_HU],
        "larger": [replace(lesion, radii=(depth, height, width)) for depth, height, width in sizes],
    }


def random_lesions(lungs: NDArray[np.bool_], spacing_mm: tuple[float, float, float], *, seed: int) -> list[Lesion]:
    """Return lesions at random places in the middle of the lungs' height."""
    slices = np.flatnonzero(lungs.any(axis=(1, 2)))
    low, high = np.quantile(slices, [0.3, 0.7])
    voxels = np.argwhere(lungs)
    voxels = voxels[(voxels[:, 0] >= low) & (voxels[:, 0] <= high)]
    rng = np.random.default_rng(seed)
    centres = voxels[rng.integers(0, len(voxels), LESIONS_PER_SCAN)] * np.array(spacing_mm)
    return [ground_glass_lesion((float(x), float(y), float(z)), seed=seed + k) for k, (z, y, x) in enumerate(centres)]


def measure_insertions(volumes: Iterable[Volume], score_slices: SliceScores) -> dict[str, list[Insertion]]:
    """Return the response to each lesion of each scan, by kind of growth: "denser" or "larger"."""
    results: dict[str, list[Insertion]] = {"denser": [], "larger": []}
    for number, volume in enumerate(volumes):
        lungs = segment_lungs(volume.hu, volume.spacing_mm).mask
        baseline = score_slices(volume)
        for lesion in random_lesions(lungs, volume.spacing_mm, seed=number):
            for kind, steps in growth_steps(lesion).items():
                scans = [insert_lesion(volume, lungs, step) for step in steps]
                changed = scans[-1][1].any(axis=(1, 2))
                scores = np.stack([baseline, *(score_slices(scan) for scan, _ in scans)])
                near = np.convolve(changed, [1, 1, 1], mode="same") > 0
                elsewhere = np.abs(scores - baseline)[:, ~near].max(initial=0.0)
                results[kind].append(Insertion(scores[:, changed].mean(axis=1), float(elsewhere)))
    return results


def summarise(insertions: list[Insertion]) -> dict[str, float | int]:
    """Return a row of the table."""
    mean = np.mean([insertion.probabilities for insertion in insertions], axis=0)
    steps = {"without": mean[0], **{f"step {k}": value for k, value in enumerate(mean[1:], 1)}}
    return {
        **{name: float(value) for name, value in steps.items()},
        "never falls": sum(insertion.monotone for insertion in insertions),
        "lesions": len(insertions),
        "elsewhere": max(insertion.change_elsewhere for insertion in insertions),
    }
