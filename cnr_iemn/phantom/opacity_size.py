"""Opacities of a given volume: how much of the lungs, measured at random points in them, and which size has it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES, Anatomy
from cnr_iemn.phantom.lesions import Lesion, share_at

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Amount:
    """What the opacities of all classes have in common: densities in HU, edges, and how much there is.

    ``share``: of a lung that is opaque, between the first and the last depth of its opacities, 0 to 1. ``dense``: the
    consolidated part of that, 0 to 1. ``glass_rim`` and ``dense_rim``: `Lesion.rim` of ground glass and consolidation.
    """

    share: float
    dense: float
    glass_hu: float
    dense_hu: float
    glass_rim: float
    dense_rim: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Amount":
        """Draw what the classes have in common."""
        return cls(
            share=float(np.clip(np.exp(rng.normal(np.log(0.25), 0.2)), 0.18, 0.33)),
            dense=float(rng.uniform(0.25, 0.5)),
            glass_hu=float(rng.normal(-480, 90)),
            dense_hu=float(rng.normal(70, 50)),
            glass_rim=float(rng.uniform(0.2, 0.7)),
            dense_rim=float(rng.uniform(0.1, 0.5)),
        )


@dataclass(frozen=True)
class Site:
    """One diseased lung: its points [m, 3], their distance to the costal pleura in mm, and what it has to hold.

    ``lobe`` and ``lobes``: indices into `LOBES`, of the lobe that was drawn and of each point. ``run``: first and last
    depth u in mm; ``filled`` and ``consolidated``: numbers of points.
    """

    anatomy: Anatomy
    lobe: int
    points: Points
    pleura: Points
    lobes: NDArray[np.int8]
    run: tuple[float, float]
    filled: float
    consolidated: float

    @property
    def name(self) -> str:
        """Of the lobe that was drawn."""
        return LOBES[self.lobe]

    @property
    def side(self) -> int:
        """Sign of x: -1 in the right lung, 1 in the left one."""
        return -1 if self.name[0] == "R" else 1

    def lobe_mask(self, name: str) -> NDArray[np.bool_]:
        """Return which points lie in a lobe."""
        mask: NDArray[np.bool_] = self.lobes == LOBES.index(name)
        return mask

    def within(self, name: str) -> "Site":
        """Return the site with the points of one lobe alone."""
        mask = self.lobe_mask(name)
        return replace(self, points=self.points[mask], pleura=self.pleura[mask], lobes=self.lobes[mask])

    def lobe_at(self, point: Points) -> str:
        """Return the lobe of the site's nearest point."""
        return LOBES[self.lobes[np.linalg.norm(self.points - point, axis=1).argmin()]]


def resized(lesion: Lesion, k: float) -> Lesion:
    """Return the lesion with ``k`` times its radii in the plane."""
    thick, wide, tall = lesion.radii
    return replace(lesion, radii=(thick * k, wide * k, tall))


def consolidated_middle(lesion: Lesion, amount: Amount, k: float) -> Lesion:
    """Return the consolidated middle of a lesion, its radii ``k`` times those of the whole."""
    thick, wide, tall = lesion.radii
    x, y, u = lesion.centre
    out = 0.7 * thick * (1 - min(k, 1.0))  # it reaches the pleura as the whole does
    centre = (x + out * float(np.cos(lesion.angle)), y + out * float(np.sin(lesion.angle)), u)
    radii = (thick * k, wide * k, tall * min(k, 1.0))
    dense = replace(lesion, kind="consolidation", centre=centre, radii=radii)
    return replace(dense, hu=amount.dense_hu, rim=amount.dense_rim)


def fitted(site: Site, volume: float, whole: Lesion, grow: Callable[[float], Lesion]) -> Lesion:
    """Return the lesion that ``grow`` makes at the size at which it fills ``volume`` of the site's points.

    ``whole``: with the outline of all of them, and at least as tall.
    """
    points = site.points[np.abs(site.points[:, 2] - whole.centre[2]) < whole.radii[2]]
    outline = whole.edge.at(points)
    low, high = 0.1, 4.0
    for _ in range(12):
        middle = (low * high) ** 0.5
        few = share_at(grow(middle), points, outline).sum() < volume
        low, high = (middle, high) if few else (low, middle)
    return grow((low * high) ** 0.5)
