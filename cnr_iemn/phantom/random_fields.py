"""Small mathematical building blocks of the phantom: random streams, plane waves, soft shapes. Lengths in mm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

STREAMS = ("anatomy", "vessels", "acquisition", "noise", "findings", "header", "disease", "reader")
"""Independent random streams of a scan. Only ``disease`` and ``reader`` are ever combined with the class."""


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of one stream (a name of `STREAMS`) of a scan with this seed (0 or more)."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS.index(name)]))


def quantile_draw(rng: np.random.Generator, values: Sequence[float], probabilities: Sequence[float]) -> float:
    """Draw from the distribution whose quantiles at ``probabilities`` (0 to 1, rising) are ``values``."""
    return float(np.interp(rng.random(), probabilities, values))


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves, defined at every point, so independent of any pixel grid.

    ``vectors`` [k, 3] in rad/mm along x, y, z; ``phases`` [k] rad; ``amplitudes`` [k].
    """

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitudes: NDArray[np.float64]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, count: int, wavelength_mm: tuple[float, float], deviation: float
    ) -> "Waves":
        """Draw waves of random direction whose sum has the standard deviation ``deviation``."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = np.exp(rng.uniform(np.log(wavelength_mm[0]), np.log(wavelength_mm[1]), count))
        vectors = directions * (2 * np.pi / lengths)[:, None]
        amplitudes = np.full(count, deviation * np.sqrt(2 / count))
        return cls(vectors, rng.uniform(0, 2 * np.pi, count), amplitudes)

    def grid(self, x: ArrayLike, y: ArrayLike, z: float) -> Array:
        """Return the field, [len(y), len(x)] float32, on the grid of columns ``x`` and rows ``y`` at height ``z``."""
        kx, ky, kz = self.vectors.T
        across = kx[:, None] * np.asarray(x, np.float64)
        down = ky[:, None] * np.asarray(y, np.float64) + (kz * z + self.phases)[:, None]
        # sin(a + b) splits into products; einsum and not BLAS, whose result may depend on its number of threads
        rows = np.concatenate([np.cos(down), np.sin(down)]) * np.tile(self.amplitudes, 2)[:, None]
        columns = np.concatenate([np.sin(across), np.cos(across)])
        field: Array = np.einsum("ki,kj->ij", rows.astype(np.float32), columns.astype(np.float32))
        return field

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the field at ``points`` [m, 3]."""
        phase = np.einsum("mi,ki->mk", points, self.vectors) + self.phases
        field: NDArray[np.float64] = np.einsum("mk,k->m", np.sin(phase), self.amplitudes)
        return field


def ellipse(x: Array, y: Array, a: float | Array, b: float | Array, power: float = 2.0) -> Array:
    """Return the approximate signed distance in mm (negative inside) to a superellipse of half-axes a and b."""
    if power == 2.0:
        radius = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    else:
        radius = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return (radius - 1) * np.sqrt(np.multiply(a, b))


def capsule(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Return the signed distance in mm to the thick line from ``start`` to ``end``."""
    px, py = x - start[0], y - start[1]
    bx, by = end[0] - start[0], end[1] - start[1]
    fraction = np.clip((px * bx + py * by) / max(bx * bx + by * by, 1e-6), 0, 1)
    distance: Array = np.hypot(px - fraction * bx, py - fraction * by) - radius
    return distance


def coverage(distance: Array, pixel_mm: float) -> Array:
    """Return the share (0 to 1) of each pixel that lies inside, from the signed distance of its centre."""
    share: Array = np.clip(0.5 - distance / pixel_mm, 0, 1)
    return share


def blend(image: Array, value: float | Array, share: Array) -> None:
    """Replace ``share`` of each pixel of ``image`` by ``value``, in place."""
    image += share * (value - image)
