"""Scans changed in small ways that should not matter, and in large ones that should: what robustness.py measures.

Nothing here is chosen by the answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from cnr_iemn.ct.rescale import AIR_HU
from cnr_iemn.ct.volume import Volume

NOISE_HU, OFFSET_HU, SHIFT_PIXELS = 10.0, 10, 2

Perturbation = Callable[[Volume], Volume]


def offset(volume: Volume, by: int) -> Volume:
    """Return the scan with all HU shifted, as a badly calibrated scanner gives; none falls below -1024."""
    return replace(volume, hu=np.maximum(volume.hu + np.int16(by), -1024).astype(np.int16))


def noisy(volume: Volume) -> Volume:
    """Return the scan with white noise of a deviation of 10 HU, the same in every run."""
    noise = np.random.default_rng(0).normal(0, NOISE_HU, volume.hu.shape)
    return replace(volume, hu=np.clip(np.rint(volume.hu + noise), -1024, 3071).astype(np.int16))


def shifted(volume: Volume) -> Volume:
    """Return the scan moved by 2 pixels to the left and up, air beside it."""
    hu = np.full_like(volume.hu, AIR_HU)
    hu[:, :-SHIFT_PIXELS, :-SHIFT_PIXELS] = volume.hu[:, SHIFT_PIXELS:, SHIFT_PIXELS:]
    return replace(volume, hu=hu)


def thick(volume: Volume) -> Volume:
    """Return the scan in slices twice as thick and far apart: means of two; a last one alone is left out."""
    pairs = len(volume.hu) // 2
    mean = volume.hu[: 2 * pairs].reshape(pairs, 2, *volume.hu.shape[1:]).mean(axis=1, dtype=np.float32)
    z = volume.z_mm[: 2 * pairs].reshape(pairs, 2).mean(axis=1)
    step, row, column = volume.spacing_mm
    return replace(volume, hu=np.rint(mean).astype(np.int16), z_mm=z, spacing_mm=(2 * step, row, column))


def flipped(volume: Volume) -> Volume:
    """Return the scan with left and right exchanged."""
    return replace(volume, hu=np.ascontiguousarray(volume.hu[:, :, ::-1]))


THICK = "slices twice as thick"
PERTURBATIONS: Mapping[str, Perturbation] = {
    "+10 HU": lambda volume: offset(volume, OFFSET_HU),
    "-10 HU": lambda volume: offset(volume, -OFFSET_HU),
    "noise of 10 HU": noisy,
    "2 pixels aside": shifted,
    THICK: thick,
    "left and right exchanged": flipped,
}
"""Of the volume, before the lung mask. What is erased inside or outside the lungs, ``engine.alterations`` does."""
