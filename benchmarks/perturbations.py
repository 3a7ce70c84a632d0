"""Perturbations of a scan for ``benchmarks.robustness``. None was selected by its effect on predictions."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from cnr_iemn.ct.io.hounsfield import AIR_HU
from cnr_iemn.ct.volume import Volume

NOISE_HU, OFFSET_HU, SHIFT_PIXELS = 10.0, 10, 2

Perturbation = Callable[[Volume], Volume]


def add_offset(volume: Volume, offset_hu: int) -> Volume:
    """Return the scan with an offset on all HU, as from a badly calibrated scanner; the minimum stays -1024."""
    return replace(volume, hu=np.maximum(volume.hu + np.int16(offset_hu), -1024).astype(np.int16))


def add_noise(volume: Volume) -> Volume:
    """Return the scan with white noise with a standard deviation of 10 HU, the same in every run."""
    noise = np.random.default_rng(0).normal(0, NOISE_HU, volume.hu.shape)
    return replace(volume, hu=np.clip(np.rint(volume.hu + noise), -1024, 3071).astype(np.int16))


def shift(volume: Volume) -> Volume:
    """Return the scan shifted by 2 pixels to the left and up, with air at the other edges."""
    hu = np.full_like(volume.hu, AIR_HU)
    hu[:, :-SHIFT_PIXELS, :-SHIFT_PIXELS] = volume.hu[:, SHIFT_PIXELS:, SHIFT_PIXELS:]
    return replace(volume, hu=hu)


def merge_slice_pairs(volume: Volume) -> Volume:
    """Return the means of pairs of slices, twice as thick and as far apart; an odd last slice is dropped."""
    pairs = len(volume.hu) // 2
    mean = volume.hu[: 2 * pairs].reshape(pairs, 2, *volume.hu.shape[1:]).mean(axis=1, dtype=np.float32)
    z = volume.z_mm[: 2 * pairs].reshape(pairs, 2).mean(axis=1)
    step, row, column = volume.spacing_mm
    return replace(volume, hu=np.rint(mean).astype(np.int16), z_mm=z, spacing_mm=(2 * step, row, column))


def flip(volume: Volume) -> Volume:
    """Return the scan with left and right swapped."""
    return replace(volume, hu=np.ascontiguousarray(volume.hu[:, :, ::-1]))


THICK = "slices twice as thick"
PERTURBATIONS: Mapping[str, Perturbation] = {
    "+10 HU": lambda volume: add_offset(volume, OFFSET_HU),
    "-10 HU": lambda volume: add_offset(volume, -OFFSET_HU),
    "noise of 10 HU": add_noise,
    "shift of 2 pixels": shift,
    THICK: merge_slice_pairs,
    "left and right swapped": flip,
}
"""They change the volume before the lung mask is made; ``evaluation.ablation`` erases lungs or background after it."""
