"""A scan exported again: other slice distance, matrix, kernel, a slice fewer; and the same body scanned again.

In phantoms a pixel is about 3.6 mm wide, so that the two kernels differ by more than those of a scanner do.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from cnr_iemn.ct.perturbations import SHARP_NOISE_HU, as_hu, sharp_kernel, smooth_kernel
from cnr_iemn.phantom.protocol import draw_protocol
from cnr_iemn.phantom.random_fields import stream
from cnr_iemn.phantom.renderer import PhantomScan, render_scan

Volume = NDArray[np.int16]
Spacing = tuple[float, float, float]
Scan = tuple[Volume, Spacing]
_OTHER_SEED = 1_000_003


def re_exports(hu: Volume, spacing: Spacing, rng: np.random.Generator) -> dict[str, Scan]:
    """Return re-exports by what was changed. ``hu``: [n, rows, columns]; ``spacing``: step, row, column, mm."""
    distance = other_slice_distance(hu, spacing, rng.uniform(0.55, 1.8))
    return {
        "other slice distance": distance,
        "other matrix": other_matrix(hu, spacing, rng.uniform(0.7, 1.3)),
        "without the first slice": (hu[1:], spacing),
        "without the last slice": (hu[:-1], spacing),
        "smooth kernel": (_smooth(hu, rng.uniform(0.3, 0.6)), spacing),
        "sharp kernel": (_sharp(hu, rng), spacing),
        "all of these": _all_of_these(distance, rng),
    }


def other_slice_distance(hu: Volume, spacing: Spacing, factor: float) -> Scan:
    """Return the slices interpolated at ``factor`` times the distance, from the first to the last."""
    n = max(2, round((len(hu) - 1) / factor) + 1)
    depth = np.linspace(0, len(hu) - 1, n)
    grid = np.meshgrid(depth, np.arange(hu.shape[1]), np.arange(hu.shape[2]), indexing="ij")
    volume = map_coordinates(hu.astype(np.float32), grid, order=1)
    return as_hu(volume), (spacing[0] * (len(hu) - 1) / (n - 1), *spacing[1:])


def other_matrix(hu: Volume, spacing: Spacing, factor: float) -> Scan:
    """Return the same field of view on a matrix of ``factor`` times as many rows and columns."""
    volume = zoom(hu.astype(np.float32), (1, factor, factor), order=1)
    return as_hu(volume), (spacing[0], *(side * hu.shape[1] / volume.shape[1] for side in spacing[1:]))


def _smooth(hu: Volume, deviation: float) -> Volume:
    """Return the slices blurred by a Gaussian. ``deviation``: in pixels."""
    return smooth_kernel(hu, (deviation, deviation))


def _sharp(hu: Volume, rng: np.random.Generator) -> Volume:
    """Return the slices sharper, with the noise that comes with it."""
    noise = rng.normal(0, SHARP_NOISE_HU, hu.shape)
    return sharp_kernel(hu, (0.5, 0.5), gain=rng.uniform(0.5, 1.0), noise=noise)


def same_body(scan: PhantomScan, *, n_slices: tuple[int, int]) -> Scan:
    """Return the body and disease of a phantom under another protocol: field of view, place, slices, noise."""
    seed = scan.spec.seed + _OTHER_SEED
    protocol = draw_protocol(stream(seed, "acquisition"), scan.spec.anatomy, n_slices=n_slices)
    again = render_scan(
        replace(scan.spec, protocol=protocol, seed=seed), rows=scan.hu.shape[1], lesions=scan.spec.lesions
    )
    return again.hu, again.spacing_mm


def _all_of_these(scan: Scan, rng: np.random.Generator) -> Scan:
    hu, spacing = other_matrix(scan[0][1:], scan[1], rng.uniform(0.7, 1.3))
    return (_smooth(hu, 0.5) if rng.random() < 0.5 else _sharp(hu, rng)), spacing
