"""How a phantom is scanned: slices, field of view, table, noise. Drawn without the class."""

from dataclasses import dataclass

import cv2
import numpy as np

from cnr_iemn.phantom.anatomy import Anatomy
from cnr_iemn.phantom.random_fields import Array

FULL_SLICES = (112, 186)
"""Slices of a full-size scan at a step of 2 mm, the range of the real set."""
STEP_MM = 2.0


@dataclass(frozen=True)
class ScanProtocol:
    """One protocol. Lengths in mm, noise in HU."""

    n_slices: int
    step: float
    top: float  # depth u of the first slice, negative: above the apex
    table_z: float  # ImagePositionPatient z of the first slice
    field_of_view: float
    centre: tuple[float, float]  # of the field of view in the body's x, y
    blur: float  # standard deviation of the in-plane point spread
    low_dose: bool
    noise: float  # high-pass standard deviation in the lungs
    grain: float  # correlation length of the noise
    table_gap: float
    table_curve: float  # 1 / mm
    table_layers: float  # distance of the two shells
    blanket: bool

    def depths(self) -> list[float]:
        """Return the depth u of each slice, head first."""
        return [self.top + index * self.step for index in range(self.n_slices)]


def draw_protocol(rng: np.random.Generator, anatomy: Anatomy, *, n_slices: tuple[int, int]) -> ScanProtocol:
    """Draw a protocol that covers the lungs with a margin above and below.

    The full-size scan has 112 to 186 slices every 2 mm. Another range of ``n_slices`` keeps the length in mm and
    changes the step.
    """
    above = rng.uniform(10, 38)
    length = above + anatomy.height + rng.uniform(6, 45)
    full = int(np.clip(round(length / STEP_MM), *FULL_SLICES))
    share = (full - FULL_SLICES[0]) / (FULL_SLICES[1] - FULL_SLICES[0])
    count = round(n_slices[0] + share * (n_slices[1] - n_slices[0]))
    body = 2 * (anatomy.half_width + anatomy.muscle + anatomy.fat + 14)
    low_dose = rng.random() < 0.2
    return ScanProtocol(
        n_slices=count,
        step=full * STEP_MM / count,
        top=-above,
        table_z=round(rng.uniform(-120, -20), 1),
        field_of_view=float(np.clip(body * rng.uniform(1.0, 1.12), 290, 400)),
        centre=(rng.normal(0, 5), rng.normal(8, 5)),
        blur=rng.uniform(0.45, 0.75),
        low_dose=bool(low_dose),
        noise=rng.uniform(14, 19) * (2 if low_dose else 1),
        grain=rng.uniform(0.55, 0.9),
        table_gap=rng.uniform(2, 14),
        table_curve=rng.uniform(0.0004, 0.0016),
        table_layers=rng.uniform(12, 26),
        blanket=bool(rng.random() < 0.5),
    )


def smooth(image: Array, deviation_px: float) -> Array:
    """Return the image blurred by a Gaussian of this standard deviation in pixels."""
    if deviation_px < 0.2:
        return image
    blurred: Array = cv2.GaussianBlur(image, (0, 0), deviation_px, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def noise_slice(rng: np.random.Generator, rows: int, protocol: ScanProtocol) -> Array:
    """Return spatially correlated noise [rows, rows] in HU: a smooth reconstruction kernel's, in pixels."""
    white = rng.standard_normal((rows, rows), dtype=np.float32)
    noise = smooth(white, protocol.grain)
    high = noise - smooth(noise, 3.0)
    return noise * np.float32(protocol.noise / high.std())
