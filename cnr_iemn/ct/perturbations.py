"""Small changes of a scan that a scanner or an export could have made. None was selected by its effect on predictions.

They change the volume before its lungs are found, and the input window before the slices are windowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.hounsfield import AIR_HU
from cnr_iemn.ct.volume import Volume
from cnr_iemn.errors import RefusalCode, ScanError

OFFSET_HU, NOISE_HU, SHIFT_PIXELS = 10, 10.0, 2
KERNEL_MM, EDGE_GAIN, SHARP_NOISE_HU = 0.6, 0.75, 25.0
"""Deviation of the Gaussian between two kernels; gain and noise of the sharp one."""
WINDOW_HU = 100.0
FIELD_SHARE = 0.9
MAGNITUDES = (OFFSET_HU, NOISE_HU, SHIFT_PIXELS, KERNEL_MM, EDGE_GAIN, SHARP_NOISE_HU, WINDOW_HU, FIELD_SHARE)
"""All of them, which say what answers for perturbed scans are of."""
_LOWEST_HU, _HIGHEST_HU = -1024, 3071


@dataclass(frozen=True)
class Perturbation:
    """A change of a scan. ``change``: of the volume. ``window_hu``: by how much the input window gets wider."""

    change: Callable[[Volume], Volume] | None = None
    window_hu: float = 0.0

    def apply(self, volume: Volume, window: tuple[float, float]) -> tuple[Volume, tuple[float, float]]:
        """Return the volume and the window with the change. ``window``: HU at grey 0 and 255."""
        low, high = window
        changed = volume if self.change is None else self.change(volume)
        return changed, (low - self.window_hu / 2, high + self.window_hu / 2)


def add_offset(volume: Volume, offset_hu: int) -> Volume:
    """Return the scan with an offset on all HU, as from a badly calibrated scanner; the minimum stays -1024."""
    return replace(volume, hu=as_hu(volume.hu.astype(np.float32) + offset_hu))


def add_noise(volume: Volume) -> Volume:
    """Return the scan with white noise with a standard deviation of 10 HU, the same in every run."""
    rng, hu = np.random.default_rng(0), np.empty_like(volume.hu)
    for index, image in enumerate(volume.hu):  # slice by slice: a volume of floats takes four times its memory
        hu[index] = as_hu(image + rng.normal(0, NOISE_HU, image.shape))
    return replace(volume, hu=hu)


def smooth(volume: Volume) -> Volume:
    """Return the scan as from a smoother kernel: each slice blurred by a Gaussian of 0.6 mm. Raises ScanError."""
    return replace(volume, hu=smooth_kernel(volume.hu, _kernel_pixels(volume)))


def sharpen(volume: Volume) -> Volume:
    """Return the scan as from a sharper kernel: edges raised, with 25 HU of noise. Raises ScanError as ``smooth``."""
    deviation = _kernel_pixels(volume)
    rng, hu = np.random.default_rng(0), np.empty_like(volume.hu)
    for index, image in enumerate(volume.hu):
        noise = rng.normal(0, SHARP_NOISE_HU, image.shape)
        hu[index] = sharp_kernel(image, deviation, gain=EDGE_GAIN, noise=noise)
    return replace(volume, hu=hu)


def _kernel_pixels(volume: Volume) -> tuple[float, float]:
    """Return the deviation of the kernel's Gaussian in rows and columns. Raises ScanError where none is known."""
    _, row, column = volume.spacing_mm
    if not np.isfinite([row, column]).all():
        raise ScanError(
            RefusalCode.MISSING_GEOMETRY,
            "A kernel cannot be simulated without the distance between pixels. Give spacing_mm in the manifest.",
        )
    return KERNEL_MM / row, KERNEL_MM / column


def smooth_kernel(hu: NDArray[np.int16], deviation: tuple[float, float]) -> NDArray[np.int16]:
    """Return images blurred by a Gaussian. ``hu``: [..., rows, columns]; ``deviation``: of rows and columns, pixels."""
    return as_hu(_blur(hu.astype(np.float32), deviation))


def _blur(image: NDArray[np.float32], deviation: tuple[float, float]) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter  # takes a moment to import, and most scans are read unperturbed

    blurred: NDArray[np.float32] = gaussian_filter(image, deviation, axes=(-2, -1))
    return blurred


def sharp_kernel(
    hu: NDArray[np.int16], deviation: tuple[float, float], *, gain: float, noise: NDArray[np.float64]
) -> NDArray[np.int16]:
    """Return images with edges raised by ``gain`` (unsharp masking) and noise in HU added, as ``smooth_kernel``."""
    image = hu.astype(np.float32)
    edges = image - _blur(image, deviation)
    return as_hu(image + gain * edges + noise)


def as_hu(values: NDArray[np.floating]) -> NDArray[np.int16]:
    """Return values rounded to HU from -1024 to 3071, the range of 12 bits."""
    rounded: NDArray[np.int16] = np.clip(np.rint(values), _LOWEST_HU, _HIGHEST_HU).astype(np.int16)
    return rounded


def merge_slice_pairs(volume: Volume) -> Volume:
    """Return the means of pairs of slices, twice as thick and as far apart; an odd last slice is dropped."""
    pairs = len(volume.hu) // 2
    mean = volume.hu[: 2 * pairs].reshape(pairs, 2, *volume.hu.shape[1:]).mean(axis=1, dtype=np.float32)
    z = volume.z_mm[: 2 * pairs].reshape(pairs, 2).mean(axis=1)
    step, row, column = volume.spacing_mm
    return replace(volume, hu=np.rint(mean).astype(np.int16), z_mm=z, spacing_mm=(2 * step, row, column))


def shift(volume: Volume) -> Volume:
    """Return the scan shifted by 2 pixels to the left and up, with air at the other edges."""
    hu = np.full_like(volume.hu, AIR_HU)
    hu[:, :-SHIFT_PIXELS, :-SHIFT_PIXELS] = volume.hu[:, SHIFT_PIXELS:, SHIFT_PIXELS:]
    return replace(volume, hu=hu)


def flip(volume: Volume) -> Volume:
    """Return the scan with left and right swapped."""
    return replace(volume, hu=np.ascontiguousarray(volume.hu[:, :, ::-1]))


def crop_field(volume: Volume) -> Volume:
    """Return the central 90% of rows and columns, as of a narrower field of view."""
    rows, columns = (slice((n - round(FIELD_SHARE * n)) // 2, None) for n in volume.hu.shape[1:])
    shape = tuple(round(FIELD_SHARE * n) for n in volume.hu.shape[1:])
    view = volume.hu[:, rows, columns][:, : shape[0], : shape[1]]
    return replace(volume, hu=np.ascontiguousarray(view))


UNPERTURBED = Perturbation()
THICK = "slices twice as thick"
PERTURBATIONS: Mapping[str, Perturbation] = {
    "+10 HU": Perturbation(partial(add_offset, offset_hu=OFFSET_HU)),
    "-10 HU": Perturbation(partial(add_offset, offset_hu=-OFFSET_HU)),
    "noise of 10 HU": Perturbation(add_noise),
    "smooth kernel": Perturbation(smooth),
    "sharp kernel": Perturbation(sharpen),
    "window 100 HU wider": Perturbation(window_hu=WINDOW_HU),
    THICK: Perturbation(merge_slice_pairs),
    "shift of 2 pixels": Perturbation(shift),
    "left and right swapped": Perturbation(flip),
    "field of view of 90%": Perturbation(crop_field),
}
