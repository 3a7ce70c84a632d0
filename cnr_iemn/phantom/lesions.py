"""Lesions as shapes and densities, and the chance findings that know nothing of the class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.phantom.anatomy import LOBES, Anatomy
from cnr_iemn.phantom.random_fields import Array, Waves
from cnr_iemn.phantom.vessels import Tubes

DISEASE_KINDS = ("ground_glass", "consolidation", "tree_in_bud", "effusion")
FINDING_KINDS = ("atelectasis", "scar", "nodule")
"""In every class alike."""
OEDEMA = "oedema"
"""As dense as ground glass and consolidation; in Normal scans of the clear recipe."""
LAYERS = ("effusion", "atelectasis")
"""Kinds that lie along the back of one lung."""


@dataclass(frozen=True)
class Lesion:
    """One opacity. ``centre`` x, y, u; ``radii`` along the pleura's normal, along the pleura and in u; all in mm.

    For effusion and atelectasis, layers along the back of one lung, ``radii`` are thickness, unused and half height.
    """

    kind: str
    lobe: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float  # of the first radius in the plane, rad
    hu: float
    peripheral: bool
    thick_vessels: bool
    edge: Waves  # irregular outline, share of the radius
    texture: Waves  # HU
    taper: float = 0.0  # share by which the second radius falls towards the inner end and grows towards the outer one
    bronchi: Tubes | None = None  # which hold air
    rim: float = 0.2  # how gradual the edge is: it ends at 1 + 0.4 rim times the radii, and is full at 1 - 0.6 rim
    blunt: bool = False  # whether it is nearly as wide at its ends in u as in its middle

    @property
    def diameter_mm(self) -> float:
        """Diameter of the sphere of the same volume."""
        return float(2 * np.prod(self.radii) ** (1 / 3))

    @property
    def volume_ml(self) -> float:
        """Volume of the ellipsoid, before the lung's surface and the lobe cut it."""
        return float(4 / 3 * np.pi * np.prod(self.radii) / 1000)

    @property
    def layer(self) -> bool:
        """Whether this is a layer along the back and not an ellipsoid."""
        return self.kind in LAYERS


def make_lesion(
    rng: np.random.Generator,
    kind: str,
    lobe: str,
    point: NDArray[np.float64],
    radii: tuple[float, float, float],
    *,
    angle: float,
    hu: float,
    peripheral: bool = False,
    thick_vessels: bool = False,
) -> Lesion:
    """Make a lesion with an outline and a texture of its own."""
    size = float(np.prod(radii) ** (1 / 3))
    rough = 0.05 if kind in ("nodule", "scar") else float(rng.uniform(0.12, 0.28))
    bud = kind == "tree_in_bud"
    return Lesion(
        kind=kind,
        lobe=lobe,
        centre=(float(point[0]), float(point[1]), float(point[2])),
        radii=radii,
        angle=angle,
        hu=hu,
        peripheral=peripheral,
        thick_vessels=thick_vessels,
        edge=Waves.draw(rng, count=6, wavelength_mm=(max(0.8 * size, 5), max(2.5 * size, 12)), deviation=rough),
        texture=Waves.draw(rng, count=10, wavelength_mm=(5, 9) if bud else (5, 25), deviation=1 if bud else 45),
        rim=0.5 if kind == "ground_glass" else 0.2,
    )


def ellipsoid_share(lesion: Lesion, x: Array, y: Array, u: float) -> Array:
    """Return how much of each pixel a lesion that is no layer fills, 0 to 1, float32 [len(y), len(x)].

    ``x``, ``y``: float32, columns and rows in mm; ``u``: the slice's depth, within the lesion's half height of it.
    """
    height = ((u - lesion.centre[2]) / lesion.radii[2]) ** (4 if lesion.blunt else 2)
    px, py = x[None] - np.float32(lesion.centre[0]), y[:, None] - np.float32(lesion.centre[1])
    radius = scaled_radius(lesion, px, py, height)
    radius += lesion.edge.grid(x, y, u)
    return _share(lesion, radius)


def scaled_radius(lesion: Lesion, px: Array, py: Array, height: float | Array) -> Array:
    """Return the distance from the middle, 1 on the ellipsoid, at ``px``, ``py`` mm and squared scaled ``height``."""
    cos, sin = np.cos(lesion.angle), np.sin(lesion.angle)
    lengthwise, crosswise = (px * cos + py * sin) / lesion.radii[0], (py * cos - px * sin) / lesion.radii[1]
    if lesion.taper:
        crosswise = crosswise / (1 + lesion.taper * np.clip(lengthwise, -1, 1))
    radius: Array = np.sqrt(lengthwise**2 + crosswise**2 + height)
    return radius


def share_at(lesion: Lesion, points: NDArray[np.float64], outline: NDArray[np.float64]) -> Array:
    """Return how much the lesion fills at points [m, 3], 0 to 1. ``outline``: its ``edge`` there."""
    px, py, pu = (points - lesion.centre).T
    height = (pu / lesion.radii[2]) ** (4 if lesion.blunt else 2)
    share = soften(_share(lesion, scaled_radius(lesion, px, py, height) + outline))
    return np.where(height < 1, share, 0.0)


def layer_at(lesion: Lesion, points: NDArray[np.float64], pleura: Array, half_depth: float) -> NDArray[np.bool_]:
    """Return which points [m, 3] of its lung a layer holds. ``pleura``: their distance to the costal pleura, mm."""
    rise = 1 - ((points[:, 2] - lesion.centre[2]) / lesion.radii[2]) ** 2
    thickness = lesion.radii[0] * np.sqrt(np.maximum(rise, 0)) * np.clip(points[:, 1] / half_depth - 0.1, 0, 1)
    held: NDArray[np.bool_] = pleura < thickness
    return held


def _share(lesion: Lesion, radius: Array) -> Array:
    share: Array = np.clip((1 + 0.4 * lesion.rim - radius) / lesion.rim, 0, 1)
    return share


def soften(share: Array) -> Array:
    """Return the share with a gradual rim."""
    soft: Array = share * share * (3 - 2 * share)
    return soft


def make_dense(tissue: Array, lesion: Lesion, share: Array, x: Array, y: Array, u: float) -> Array:
    """Raise ``tissue`` (HU, in place) to the lesion's density where it fills it; return the share that it fills."""
    texture = lesion.texture.grid(x, y, u)
    if lesion.kind == "tree_in_bud":
        share = share * np.clip((texture - 0.7) * 2.5, 0, 1)
        density = np.full_like(share, lesion.hu)
    else:
        density = lesion.hu + texture * (0.4 if lesion.hu > -200 else 1.0)
    tissue += share * np.maximum(density - tissue, 0)
    return share


def outward(anatomy: Anatomy, point: NDArray[np.float64]) -> float:
    """Return the direction (rad) in the plane in which the costal pleura is nearest."""
    around = np.repeat(point[None], 4, 0) + np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    depth = anatomy.pleural_depth(*anatomy.warp(around))
    return float(np.arctan2(depth[3] - depth[2], depth[1] - depth[0]))


def draw_findings(rng: np.random.Generator, anatomy: Anatomy) -> list[Lesion]:
    """Draw atelectasis, scars or nodules: in a fifth of the scans of every class, without knowing the class."""
    if rng.random() > 0.2:
        return []
    points = anatomy.sample(rng, 400)
    lobe = anatomy.lobe(*anatomy.warp(points))
    kind = str(rng.choice(["atelectasis", "scar", "nodule"]))
    findings = []
    for index in range(1 if kind == "atelectasis" else int(rng.integers(1, 5))):
        point, radii, hu = points[index], (3.0, 3.0, 3.0), 20.0
        if kind == "atelectasis":
            point = np.array([rng.choice([-60.0, 60.0]), 80.0, rng.uniform(0.72, 0.85) * anatomy.height])
            radii, hu = (rng.uniform(4, 11), 40.0, rng.uniform(15, 35)), rng.uniform(-350, -120)
        elif kind == "scar":
            radii, hu = (rng.uniform(10, 24), rng.uniform(1.5, 3.5), rng.uniform(6, 16)), rng.uniform(-300, -50)
        else:
            radii = (rng.uniform(2.5, 7),) * 3
        name = LOBES[lobe[index]] if kind != "atelectasis" else ("RLL" if point[0] < 0 else "LLL")
        findings.append(make_lesion(rng, kind, name, point, radii, angle=float(rng.uniform(0, np.pi)), hu=float(hu)))
    return findings
