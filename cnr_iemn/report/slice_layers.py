"""A slice on a scan's page in layers that a click hides: the picture, the lung mask's outline, the Grad-CAM map."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import LUNG_WINDOW

Grey = NDArray[np.uint8]
MIN_SIDE = 256
"""Of a picture, pixels."""
HEAT_SIDE = 256
"""Of the map's layer, pixels: a map is coarse, and its layer need not have the slice's resolution."""
_OPACITY = 0.55  # of the map where it is 1
_BODY_HU = -500.0
_OPENING = 0.012  # of the side: detaches the table
_TOLERANCE = 0.35  # pixels by which the drawn outline may leave the mask's edge
_SPECK = 8.0  # square pixels: smaller holes and islands of the mask are not drawn
_QUALITY = 85


def enlarge(image: Grey, mask: Grey) -> tuple[Grey, Grey]:
    """Return a slice of a coarse scan and its mask of 0 and 1, uint8, enlarged without corners; others as they are.

    Pixels of a phantom may be so large that their edges would hide what they show.
    """
    if len(image) >= MIN_SIDE:
        return image, mask
    side = len(image) * -(-MIN_SIDE // len(image))
    large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    inside = cv2.resize(mask * np.uint8(255), (side, side), interpolation=cv2.INTER_LINEAR) >= 128
    return np.asarray(large, np.uint8), inside.astype(np.uint8)


def grey_uri(image: Grey, *, quality: int = _QUALITY) -> str:
    """Return a slice, uint8 [rows, columns], as a JPEG in a data URI. ``quality``: 0 to 100."""
    return _uri(image, "jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def outline_path(mask: Grey) -> str:
    """Return the outline of a mask of 0 and 1, uint8 [rows, columns], as an SVG path in pixels; "" for an empty one."""
    contours, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    paths = []
    for contour in contours:
        if cv2.contourArea(contour) < _SPECK:
            continue
        points = cv2.approxPolyDP(contour, _TOLERANCE, closed=True)[:, 0]
        paths.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(paths)


def body_mask(image: Grey) -> Grey:
    """Return the body in a slice: what is denser than -500 HU, the largest piece, without the table, holes filled.

    Args:
        image: In the lung window, uint8 [rows, columns].

    Returns:
        0 or 1, of the same shape; all 1 where nothing is dense.
    """
    black, white = LUNG_WINDOW
    dense = (image > 255 * (_BODY_HU - black) / (white - black)).astype(np.uint8)
    width = max(3, round(_OPENING * len(image)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    contours, _ = cv2.findContours(
        cv2.morphologyEx(dense, cv2.MORPH_OPEN, kernel), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    if not contours:
        return np.ones_like(dense)
    body = np.zeros_like(dense)
    cv2.drawContours(body, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return body


def heat_uri(heatmap: NDArray[np.float32], body: Grey) -> str:
    """Return a map as a layer that covers its slice, a PNG with transparency in a data URI; clear outside the body.

    Args:
        heatmap: float32 [n, n], 0 to 1.
        body: 0 or 1, uint8 [rows, columns], of the slice.
    """
    size = (HEAT_SIDE, HEAT_SIDE)
    heat = np.clip(cv2.resize(heatmap, size, interpolation=cv2.INTER_CUBIC), 0, 1)
    inside = cv2.resize(body * np.float32(1), size, interpolation=cv2.INTER_AREA)
    layer = cv2.cvtColor(
        cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2BGRA
    )
    layer[..., 3] = np.rint(255 * _OPACITY * heat * inside)
    layer[layer[..., 3] == 0] = 0  # compresses better
    return _uri(layer, "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _uri(image: Grey, kind: str, options: list[int]) -> str:
    _, data = cv2.imencode(f".{kind}", image, options)
    return f"data:image/{'jpeg' if kind == 'jpg' else kind};base64," + base64.b64encode(data.tobytes()).decode()
