"""From a folder of DICOM files to what the slice store keeps: windowed slices and lung masks at one size."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.reader import read_scan
from cnr_iemn.ct.rescale import AIR_HU
from cnr_iemn.ct.window import window_to_uint8

Pixel = TypeVar("Pixel", np.uint8, np.float32)


@dataclass(frozen=True)
class PreparedScan:
    """One scan, head first. ``grey``: uint8 [slices, size, size]; ``lungs``: bool of the same shape.

    ``spacing_mm``, ``z_mm``, ``phantom`` and ``source_sha256`` are those of ``Volume``, before resizing; ``findings``
    are the reader's and the lung mask's.
    """

    grey: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    lung_litres: float
    findings: tuple[str, ...]
    phantom: bool
    source_sha256: str


def prepare_scan(
    path: Path, *, size: int = 336, lungs: str = "border", window: tuple[float, float] = (-1000, 400)
) -> PreparedScan:
    """Read a scan, segment its lungs at full resolution, window it, and resize both to ``size`` pixels a side.

    ``lungs``: a method of ``segment_lungs``; ``window``: HU at grey 0 and 255. Raises ScanError, ConfigurationError.
    """
    volume = read_scan(path)
    found = segment_lungs(volume.hu, volume.spacing_mm, method=lungs)
    low, high = window
    air = int(window_to_uint8(np.full(1, AIR_HU, np.int16), low=low, high=high)[0])
    grey = np.empty((len(volume.hu), size, size), np.uint8)
    mask = np.empty(grey.shape, bool)
    for index, image in enumerate(volume.hu):
        grey[index] = resize_square(window_to_uint8(image, low=low, high=high), size, fill=air)
        # half covered counts as lung; the little less allows for the rounding of float32 sums
        mask[index] = resize_square(found.mask[index].astype(np.float32), size) >= 0.5 - 1e-5
    return PreparedScan(
        grey,
        mask,
        volume.spacing_mm,
        volume.z_mm,
        found.litres,
        volume.findings + found.findings,
        volume.phantom,
        volume.source_sha256,
    )


def resize_square(image: NDArray[Pixel], size: int, *, fill: float = 0) -> NDArray[Pixel]:
    """Return the image [rows, columns] padded with ``fill`` to a centred square and resized to ``size`` a side.

    Shrinking averages over areas, which loses no thin structure; enlarging interpolates linearly.
    """
    rows, columns = image.shape
    side = max(rows, columns)
    if rows != columns:
        top, left = (side - rows) // 2, (side - columns) // 2
        edges = ((top, side - rows - top), (left, side - columns - left))
        image = np.pad(image, edges, constant_values=fill)
    resized: NDArray[Pixel] = cv2.resize(
        image, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    )
    return resized
