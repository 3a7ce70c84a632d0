"""Slices as pictures: lung window, outline of the lung mask, Grad-CAM overlay, data URIs."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import LUNG_WINDOW
from cnr_iemn.ct.io.slice_order import TURNED
from cnr_iemn.ct.preprocess import PreparedScan

SIDE = 384
"""Of a picture, pixels."""
MARK = 24
"""Side of the black square for R and L at half height, pixels."""
OUTLINE = (64, 200, 255)
"""Blue, green, red of the mask's outline: orange, which no grey image contains."""
_OPACITY = 0.45  # of the heatmap where it is 1: the slice stays visible below


def thumbnail(grey: NDArray[np.uint8], mask: NDArray[np.uint8], *, side: int, quality: int = 85) -> str:
    """Return ``outline_mask`` as a JPEG in a data URI. ``quality``: 0 to 100."""
    return data_uri(outline_mask(grey, mask, side=side), quality=quality)


def outline_mask(grey: NDArray[np.uint8], mask: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """Return a slice with the outline of its lung mask, uint8 [side, side, 3]: blue, green, red.

    Args:
        grey: uint8 [size, size].
        mask: 0 or 1, of the same shape.
        side: Of the picture, pixels.
    """
    large = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA if len(grey) > side else cv2.INTER_CUBIC)
    inside = np.asarray(cv2.resize(mask * np.uint8(255), (side, side)) >= 128, np.uint8)  # a smooth outline
    image = cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, OUTLINE, 1)
    return np.asarray(image)


def data_uri(image: NDArray[np.uint8], *, quality: int) -> str:
    """Return an image, uint8 [rows, columns, 3] (blue, green, red), as a JPEG in a data URI."""
    # colour at full resolution, or the thin outline would fade
    colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality, *colour])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def lung_extent(lungs: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the first and the last slice with lung, or of the scan if the mask, [slices, rows, columns], is empty."""
    indices = np.flatnonzero(lungs.any(axis=(1, 2)))
    return (int(indices[0]), int(indices[-1])) if len(indices) else (0, len(lungs) - 1)


def apply_lung_window(grey: NDArray[np.uint8], *, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return slices in the lung window, uint8 of the same shape. ``window``: HU at their grey 0 and 255.

    Values outside ``window`` are shown as its ends: for -1000 to 400 HU, air below -1000 is at most 4 levels too light.
    """
    low, high = window
    black, white = LUNG_WINDOW
    hu = low + np.arange(256) * (high - low) / 255
    table = np.rint(np.clip((hu - black) / (white - black), 0, 1) * 255).astype(np.uint8)
    return np.asarray(table[grey])


def slice_pictures(
    prepared: PreparedScan, index: int, heatmap: NDArray[np.float32] | None, *, window: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return ``draw_pictures`` of a slice in the lung window; R and L are marked unless the scan is turned.

    ``window``: HU at grey 0 and 255 of the scan.
    """
    grey = apply_lung_window(prepared.grey[index], window=window)
    mask = prepared.lungs[index].astype(np.uint8)
    return draw_pictures(grey, mask, heatmap, mark_sides=TURNED not in prepared.findings)


def draw_pictures(
    grey: NDArray[np.uint8], mask: NDArray[np.uint8], heatmap: NDArray[np.float32] | None, *, mark_sides: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return a slice with the outline of its lung mask, and the same under its heatmap.

    Args:
        grey: uint8 [size, size], windowed for display.
        mask: 0 or 1, of the same shape.
        heatmap: float32 [SIDE, SIDE], 0 to 1; None for no second picture.
        mark_sides: Mark the patient's right (on the left) and left; needs rows that run to the left.

    Returns:
        Two pictures, uint8 [SIDE, SIDE, 3]: blue, green, red; the second is None without a heatmap.
    """
    plain = outline_mask(grey, mask, side=SIDE)
    overlay = None
    if heatmap is not None:
        colours = cv2.applyColorMap(np.rint(255 * heatmap).astype(np.uint8), cv2.COLORMAP_INFERNO)
        share = _OPACITY * heatmap[..., None]
        overlay = np.rint((1 - share) * plain + share * colours).astype(np.uint8)
    if mark_sides:
        for image in (plain, overlay):
            if image is not None:
                _mark_sides(image)
    return plain, overlay


def _mark_sides(image: NDArray[np.uint8]) -> None:
    for letter, left in (("R", 4), ("L", SIDE - 4 - MARK)):
        top = (SIDE - MARK) // 2
        cv2.rectangle(image, (left, top), (left + MARK, top + MARK), (0, 0, 0), cv2.FILLED)
        base = (left + 5, top + MARK - 5)
        cv2.putText(image, letter, base, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
