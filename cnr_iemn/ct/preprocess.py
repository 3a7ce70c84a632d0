"""From a folder of DICOM files to what the slice store keeps: windowed slices and lung masks at one size."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import INPUT_WINDOW, LUNG_WINDOW
from cnr_iemn.ct.io.acquisition import Acquisition
from cnr_iemn.ct.io.hounsfield import AIR_HU
from cnr_iemn.ct.io.image_stack import ImageStack, read_images
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.perturbations import UNPERTURBED, Perturbation
from cnr_iemn.ct.resize import resize_mask, resize_square
from cnr_iemn.ct.volume import Volume, check_lengths
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.read_options import STRICT, ReadOptions

CROP_MARGIN = 0.05
"""Beyond the lungs on each side, as a share of their extent: the chest wall they lie against stays in view."""


MAX_DISPLAY_SIDE = 512
"""Of ``DisplaySlices``, pixels: the resolution of CT; larger images are rare and would fill the memory."""


@dataclass(frozen=True)
class DisplaySlices:
    """Slices for a reader: in the lung window, at the scan's own resolution, of the same field as the networks' slices.

    ``grey``: uint8 [slices, side, side]. ``mask_bits``: the lung mask, a bit a pixel, uint8 [slices, side, side / 8].
    """

    grey: NDArray[np.uint8]
    mask_bits: NDArray[np.uint8]

    def lungs(self, index: int) -> NDArray[np.uint8]:
        """Return the lung mask of a slice, 0 or 1, uint8 [side, side]."""
        return np.unpackbits(self.mask_bits[index], axis=-1, count=self.grey.shape[2])


@dataclass(frozen=True)
class PreparedScan:
    """One scan, head first. ``grey``: uint8 [slices, size, size]; ``lungs``: bool of the same shape.

    ``spacing_mm``, ``z_mm``, ``phantom`` and ``source_sha256`` are those of ``Volume``, before resizing; ``findings``
    are the reader's and the lung mask's. ``acquisition``: of the source, its field of view before any crop.
    ``display``: None where nothing shows the scan.
    """

    grey: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    lung_litres: float
    findings: tuple[str, ...]
    phantom: bool
    source_sha256: str
    acquisition: Acquisition
    display: DisplaySlices | None = None


def prepare_scan(
    source: Path | ImageStack,
    *,
    size: int = 336,
    lungs: str = "pleura",
    window: tuple[float, float] = INPUT_WINDOW,
    crop: str = "none",
    read_options: ReadOptions = STRICT,
    scan: str | None = None,
    numbered: bool = False,
    display: bool = False,
    perturbation: Perturbation = UNPERTURBED,
) -> PreparedScan:
    """Read a scan, segment its lungs at full resolution, window it, and resize both to ``size`` pixels a side.

    Args:
        source: The scan.
        size: Rows and columns of the result.
        lungs: A method of ``segment_lungs``.
        window: HU at grey 0 and 255.
        crop: "none", or "lungs" for the scan's ``lung_square`` alone (the whole image where there is no lung).
        read_options: What the reader would otherwise refuse.
        scan: What messages call the scan.
        numbered: Messages call a file by its number in place of its name.
        display: Keep slices for a reader, too.
        perturbation: A change of the scan before its lungs are found.

    Raises:
        ScanError: The scan cannot be read, or not be changed so.
        ConfigurationError: There is no such method, or no such window.
    """
    if isinstance(source, ImageStack):
        volume = read_images(source, window=window, options=read_options, numbered=numbered)
        check_lengths(source.scan_id, "voxels", *volume.spacing_mm)
    else:
        volume = read_scan(source, read_options, scan=scan, numbered=numbered)
    volume, window = perturbation.apply(volume, window)
    return prepare_volume(volume, size=size, lungs=lungs, window=window, crop=crop, display=display)


def prepare_volume(
    volume: Volume, *, size: int, lungs: str, window: tuple[float, float], crop: str, display: bool = False
) -> PreparedScan:
    """Prepare a scan that has been read. The arguments are those of ``prepare_scan``."""
    lung_mask = segment_lungs(volume.hu, volume.spacing_mm, method=lungs)
    low, high = window
    air = int(window_to_uint8(np.full(1, AIR_HU, np.int16), low=low, high=high)[0])
    grey = np.empty((len(volume.hu), size, size), np.uint8)
    mask = np.zeros(grey.shape, bool)
    view = lung_square(lung_mask.mask) if crop == "lungs" else (slice(None), slice(None))
    for index, image in enumerate(volume.hu[:, *view]):
        grey[index] = resize_square(window_to_uint8(image, low=low, high=high), size, fill=air)
        mask[index] = resize_mask(lung_mask.mask[index][view].view(np.uint8), size)
    return PreparedScan(
        grey,
        mask,
        volume.spacing_mm,
        volume.z_mm,
        lung_mask.litres,
        volume.findings + lung_mask.findings,
        volume.phantom,
        volume.source_sha256,
        replace(volume.acquisition, field_of_view_mm=volume.hu.shape[2] * volume.spacing_mm[2]),
        _display_slices(volume.hu[:, *view], lung_mask.mask[:, *view]) if display else None,
    )


def _display_slices(hu: NDArray[np.int16], mask: NDArray[np.bool_]) -> DisplaySlices:
    """Return slices in the lung window. ``hu``, ``mask``: [slices, rows, columns]."""
    low, high = LUNG_WINDOW
    side = min(max(hu.shape[1:]), MAX_DISPLAY_SIDE)
    air = int(window_to_uint8(np.full(1, AIR_HU, np.int16), low=low, high=high)[0])
    grey = np.empty((len(hu), side, side), np.uint8)
    bits = np.empty((len(hu), side, math.ceil(side / 8)), np.uint8)
    for index, image in enumerate(hu):
        grey[index] = resize_square(window_to_uint8(image, low=low, high=high), side, fill=air)
        bits[index] = np.packbits(resize_mask(mask[index].view(np.uint8), side), axis=-1)
    return DisplaySlices(grey, bits)


def lung_square(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return rows and columns of the square around all lungs of a scan with a margin, moved to lie within the image.

    ``mask``: [slices, rows, columns]. One square for all slices, so that lungs keep their place and proportions
    between them; a side that exceeds the image ends with it. An empty mask gives the whole image.
    """
    if not mask.any():
        return slice(0, mask.shape[1]), slice(0, mask.shape[2])
    occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    extents = [(int(indices[0]), int(indices[-1]) + 1) for indices in occupied]
    side = math.ceil((1 + 2 * CROP_MARGIN) * max(last - first for first, last in extents))
    starts = [
        min(max((first + last - side) // 2, 0), max(n - side, 0))
        for (first, last), n in zip(extents, mask.shape[1:], strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)
