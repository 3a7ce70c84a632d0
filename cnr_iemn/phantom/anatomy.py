"""The phantom's body: lungs, lobes, heart, bones and the rest as functions of position. Drawn without the class.

Coordinates in mm: x to the patient's left (right in the image), y to the back (down in the image), u downwards from
the lungs' apex. t = u / height is 0 at the apex and 1 in the lowest recess.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnr_iemn.phantom.random_fields import Array, Waves, ellipse

LOBES = ("LLL", "LUL", "RLL", "RML", "RUL")
"""Order of the published lobe labels."""

_T = (-0.2, -0.1, 0.0, 0.03, 0.08, 0.16, 0.28, 0.45, 0.65, 0.85, 1.05)
_WIDTH = (0.40, 0.42, 0.44, 0.53, 0.64, 0.76, 0.88, 0.97, 1.0, 1.0, 0.98)  # lateral edge / half_width
_MEDIAL = (0.34, 0.34, 0.33, 0.24, 0.16, 0.06, -0.06, -0.13, -0.15, -0.15, -0.15)  # medial edge / half_width
_DEPTH = (0.10, 0.12, 0.16, 0.34, 0.52, 0.72, 0.88, 0.97, 1.0, 1.0, 0.97)  # half depth / half_depth
_BACK = (0.45, 0.42, 0.38, 0.34, 0.27, 0.18, 0.08, 0.02, 0.0, 0.02, 0.05)  # centre towards the back / half_depth


@dataclass(frozen=True)
class Anatomy:
    """One body. Lengths in mm, densities in HU, shares 0 to 1."""

    height: float  # lungs, apex to the lowest recess
    half_width: float  # rib cage inside
    half_depth: float
    dome: tuple[float, float]  # top of the diaphragm, right and left, as t
    dome_fall: float  # how far the diaphragm falls from its top to its rim
    heart: tuple[float, float, float, float, float]  # centre x, y (share of the cage), t, radius share, height
    column: float  # half width of the mediastinum
    muscle: float
    fat: float
    female: bool
    arms_down: bool
    parenchyma: float  # median HU
    gravity: float  # HU from front to back over the cage's depth
    dependent: float  # HU at the very back
    dependent_mm: float  # over which it fades
    vessel_leaves: int  # power of two, each lung
    vessel_radius: float  # of the thinnest branch
    blood: float
    gas: tuple[tuple[float, float, float, float], ...]  # bowel: x, y, u, radius
    rib_phase: float
    fissures: tuple[float, float, float]  # t where the oblique one meets the back, its fall in t, t of the horizontal
    warps: tuple[Waves, Waves]
    mottle: Waves  # regional density, HU
    grain: Waves  # fine density, HU

    def level(self, u: ArrayLike, values: tuple[float, ...]) -> NDArray[np.float32]:
        """Return a profile over t at depth u."""
        return np.interp(np.asarray(u) / self.height, _T, values).astype(np.float32)

    def hemithorax(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return the signed distance to the costal surface of the nearer lung."""
        lateral = self.half_width * self.level(u, _WIDTH)
        medial = self.half_width * self.level(u, _MEDIAL)
        depth = self.half_depth * self.level(u, _DEPTH)
        centre = self.half_depth * self.level(u, _BACK)
        return ellipse(np.abs(x) - (lateral + medial) / 2, y - centre, (lateral - medial) / 2, depth, 2.15)

    def cage(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return the signed distance to the inner side of the ribs, both lungs and the middle together."""
        width = self.half_width * self.level(u, _WIDTH)
        depth = self.half_depth * np.maximum(self.level(u, _DEPTH), 0.45)
        return ellipse(x, y - self.half_depth * self.level(u, _BACK), width, depth, 2.15)

    def diaphragm(self, x: Array, y: Array) -> Array:
        """Return the depth u (mm below the apex) of the diaphragm under each (x, y)."""
        top = np.where(x < 0, self.dome[0], self.dome[1]) * self.height
        out = (np.abs(x) / self.half_width - 0.52) / 0.62
        back = y / self.half_depth + 0.22
        rise = out**2 + 0.75 * back**2 + 0.35 * np.maximum(back, 0)
        depth: Array = np.minimum(top + self.dome_fall * rise, self.height).astype(np.float32)
        return depth

    def mediastinum(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return the signed distance to everything between the lungs: column, heart, aorta, spine."""
        t = np.asarray(u, np.float32) / self.height
        scale = self.half_width / 130
        front = np.clip((y / self.half_depth + 0.95) / 0.75, 0, 1)
        rear = np.clip(y / self.half_depth - 0.05, 0, 0.5)
        width = (4 + (self.column - 4) * front * front * (3 - 2 * front)) * (1 - 0.9 * rear)
        column = np.where(y < 0.75 * self.half_depth, np.abs(x) - width, 99)
        hx, hy, ht, share, tall = self.heart
        slim = np.sqrt(np.maximum(1 - ((t - ht) * self.height / tall) ** 2, 1e-3)).astype(np.float32)
        tilt = 0.35 * (y - hy * self.half_depth)
        heart = ellipse(
            x - hx * self.half_width - tilt,
            y - hy * self.half_depth,
            share * self.half_width * slim,
            0.95 * share * self.half_width * slim,
        )
        heart = np.where(np.abs(t - ht) * self.height < tall, heart, 99)
        aorta = np.hypot(x - 20 * scale, y - 0.42 * self.half_depth) - 12 * scale
        aorta = np.where(t > 0.24, aorta, 99)
        arch = ellipse(x - 12 * scale, y - 5, 20 * scale, 34 * scale)
        arch = arch + 1.2 * np.abs(t - 0.24) * self.height
        spine = ellipse(x, y - 0.80 * self.half_depth, 25 * scale, 30 * scale)
        distance: Array = np.minimum.reduce([column, heart, aorta, arch, spine]).astype(np.float32)
        return distance

    def lungs(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return the signed distance to the lungs, negative inside."""
        below_dome = (np.asarray(u, np.float32) - self.diaphragm(x, y)) * 0.7  # the dome is steep on average
        costal = np.maximum(self.hemithorax(x, y, u), below_dome)
        return np.maximum(np.maximum(costal, -self.mediastinum(x, y, u)), 1.5 - np.abs(x))

    def pleural_depth(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return the distance in mm to the costal pleura, positive inside the lungs."""
        return -self.hemithorax(x, y, u)

    def oblique(self, x: Array, y: Array, u: ArrayLike) -> Array:
        """Return how far (mm in u) a point lies below the oblique fissure: positive in the lower lobe."""
        back, fall, _ = self.fissures
        front = 0.5 - y / (2.0 * self.half_depth) - 0.18 * (x / self.half_width) ** 2  # bulging
        return (np.asarray(u, np.float32) - (back + fall * front) * self.height).astype(np.float32)

    def lobe(self, x: Array, y: Array, u: ArrayLike) -> NDArray[np.int8]:
        """Return the index into `LOBES` of each point, as if it were inside the lungs."""
        lower = self.oblique(x, y, u) > 0
        middle = np.asarray(u) > self.fissures[2] * self.height
        right = np.where(lower, 2, np.where(middle, 3, 4))
        return np.where(x < 0, right, np.where(lower, 0, 1)).astype(np.int8)

    def warp(self, points: NDArray[np.float64]) -> tuple[Array, Array, Array]:
        """Return the undeformed x, y, u of points [m, 3] given as x, y, u."""
        x = points[:, 0] + self.warps[0].at(points)
        y = points[:, 1] + self.warps[1].at(points)
        return x.astype(np.float32), y.astype(np.float32), points[:, 2].astype(np.float32)

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return ``count`` points [count, 3] (x, y, u), uniform in the lungs."""
        low = np.array([-self.half_width - 10, -self.half_depth - 10, 0.0])
        high = np.array([self.half_width + 10, self.half_depth + 25, self.height])
        points = rng.uniform(low, high, (5 * count, 3))
        points = points[self.lungs(*self.warp(points)) < -1]
        while len(points) < count:
            more = rng.uniform(low, high, (5 * count, 3))
            points = np.concatenate([points, more[self.lungs(*self.warp(more)) < -1]])
        return points[:count]


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a body. Sizes, inspiration, density, vessels and deformation vary widely, so that none tells the class."""
    half_width = rng.uniform(110, 142)
    half_depth = half_width * rng.uniform(0.66, 0.78)
    height = rng.uniform(195, 275)
    right = rng.uniform(0.56, 0.72)
    gas = tuple(
        (
            rng.uniform(0.05, 0.55) * half_width,
            rng.uniform(-0.55, -0.1) * half_depth,
            height * rng.uniform(0.93, 1.1),
            rng.uniform(7, 20),
        )
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.35, 0.25, 0.25, 0.15]))
    )
    return Anatomy(
        height=height,
        half_width=half_width,
        half_depth=half_depth,
        dome=(right, right + rng.uniform(0.0, 0.07)),
        dome_fall=height * rng.uniform(0.24, 0.36),
        heart=(
            rng.uniform(0.12, 0.2),
            rng.uniform(-0.42, -0.28),
            rng.uniform(0.55, 0.63),
            rng.uniform(0.38, 0.48),
            rng.uniform(58, 75),
        ),
        column=rng.uniform(21, 29) * half_width / 130,
        muscle=rng.uniform(14, 22),
        fat=rng.uniform(4, 26),
        female=bool(rng.random() < 0.45),
        arms_down=bool(rng.random() < 0.15),
        parenchyma=rng.uniform(-880, -835),
        gravity=rng.uniform(15, 70),
        dependent=300 * rng.uniform(0, 1) ** 2,
        dependent_mm=rng.uniform(5, 14),
        vessel_leaves=int(rng.choice([256, 512, 1024], p=[0.3, 0.4, 0.3])),
        vessel_radius=rng.uniform(0.45, 0.7),
        blood=rng.uniform(20, 60),
        gas=gas,
        rib_phase=rng.uniform(0, 1),
        fissures=(rng.uniform(0.18, 0.28), rng.uniform(0.55, 0.68), rng.uniform(0.42, 0.52)),
        warps=(
            Waves.draw(rng, count=6, wavelength_mm=(80, 260), deviation=2.5),
            Waves.draw(rng, count=6, wavelength_mm=(80, 260), deviation=2.5),
        ),
        mottle=Waves.draw(rng, count=8, wavelength_mm=(60, 400), deviation=rng.uniform(6, 15)),
        grain=Waves.draw(rng, count=24, wavelength_mm=(6, 22), deviation=rng.uniform(6, 13)),
    )
