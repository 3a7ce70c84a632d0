"""The paper's five augmentations as one warp per image (section 2.1.2).

Colour jitter, horizontal flip, perspective, rotation and random crop follow ``torchvision.transforms.v2`` and come in
the paper's order. The four geometric ones and the resize before them are all homographies, so they compose to a single
one, applied once: one interpolation instead of five. What leaves the frame is filled with air (0) in both images.

Pixel (0, 0) has its centre at (0, 0) here, as in OpenCV. torchvision resizes, flips, warps and rotates in coordinates
whose origin is the outer corner of that pixel, so the composition is made there and shifted at its ends.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cnr_iemn.config.schema.settings import AugmentationSettings

Matrix = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Draw:
    """One draw of all random numbers, in pixels of the image of side ``working_size`` from which the crop is cut.

    ``corners``: where the centres of the corner pixels go, clockwise from the top left, as (x, y); None for no
    perspective. ``angle``: degrees, counter-clockwise. ``left``, ``top``: of the crop. ``brightness`` and ``contrast``:
    factors, None for no jitter; ``contrast_first``: the order of the two.
    """

    working_size: int
    flip: bool
    corners: tuple[tuple[int, int], ...] | None
    angle: float
    left: int
    top: int
    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = False


@dataclass(frozen=True)
class Warp:
    """What is done to one slice.

    ``homography``: float64 [3, 3], from input to output pixel coordinates (x, y, 1), pixel centres at integers.
    ``brightness`` and ``contrast``: factors on the grey values, None for none; ``contrast_first``: their order.
    """

    homography: Matrix
    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = False


def draw_parameters(rng: np.random.Generator, settings: AugmentationSettings, *, image_size: int) -> Draw:
    """Draw all random numbers of one augmented slice with an output side of ``image_size`` pixels.

    Every number is drawn whatever the others are, so that switching one transform off leaves the others as they were.
    """
    size = round(image_size / settings.crop_ratio)
    jitter = rng.random() < settings.jitter_probability
    brightness = rng.uniform(1 - settings.brightness, 1 + settings.brightness)
    contrast = rng.uniform(1 - settings.contrast, 1 + settings.contrast)
    contrast_first = bool(rng.random() < 0.5)
    flip = bool(rng.random() < settings.flip_probability)
    perspective = rng.random() < settings.perspective_probability
    reach = int(settings.perspective_distortion * (size // 2))
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = rng.integers(0, reach, size=(4, 2), endpoint=True).tolist()
    last = size - 1
    corners = ((x0, y0), (last - x1, y1), (last - x2, last - y2), (x3, last - y3))
    angle = rng.uniform(-settings.rotation_degrees, settings.rotation_degrees)
    left, top = rng.integers(0, size - image_size, size=2, endpoint=True).tolist()
    return Draw(
        working_size=size,
        flip=flip,
        corners=corners if perspective else None,
        angle=angle,
        left=left,
        top=top,
        brightness=brightness if jitter else None,
        contrast=contrast if jitter else None,
        contrast_first=jitter and contrast_first,
    )


def compose(draw: Draw, *, input_size: int) -> Warp:
    """Join resize, flip, perspective, rotation and crop of ``draw`` to one warp of an image of side ``input_size``."""
    size = draw.working_size
    matrix = _scaling(size / input_size)
    if draw.flip:
        matrix = np.array([[-1.0, 0.0, size], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
    if draw.corners is not None:
        last = size - 1
        corners = np.array([[0, 0], [last, 0], [last, last], [0, last]], dtype=np.float32)
        # torchvision takes these pixel indices for outer-corner coordinates; so do we, to land where it lands
        matrix = cv2.getPerspectiveTransform(corners, np.array(draw.corners, dtype=np.float32)) @ matrix
    cosine, sine = math.cos(math.radians(draw.angle)), math.sin(math.radians(draw.angle))
    rotation = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    centre = size / 2
    matrix = _shift(centre - draw.left, centre - draw.top) @ rotation @ _shift(-centre, -centre) @ matrix
    return Warp(_between_centres(matrix), draw.brightness, draw.contrast, draw.contrast_first)


def draw_warp(rng: np.random.Generator, settings: AugmentationSettings, *, input_size: int, image_size: int) -> Warp:
    """Draw the warp of one augmented slice, from a square of side ``input_size`` to one of side ``image_size``.

    The image is brought to round(image_size / crop_ratio) pixels, flipped, distorted, rotated about its centre and
    cropped to image_size; or, with 1 - ``settings.probability``, left as it is.
    """
    draw = draw_parameters(rng, settings, image_size=image_size)
    if rng.random() >= settings.probability:  # drawn last, so that the other numbers are those of probability 1
        return plain_warp(input_size=input_size, image_size=image_size)
    return compose(draw, input_size=input_size)


def plain_warp(*, input_size: int, image_size: int) -> Warp:
    """Return the warp of a slice that is not augmented: the whole image resized to ``image_size``, nothing cropped."""
    return Warp(_between_centres(_scaling(image_size / input_size)))


def apply_warp(
    grey: Image, lungs: npt.NDArray[np.bool_] | Image, warp: Warp, *, image_size: int
) -> tuple[Image, Image]:
    """Warp a slice and its lung mask, both square and of the side that ``warp`` was made for.

    ``grey``: uint8 [h, h]. ``lungs``: bool or uint8 [h, h], lung where not 0. Returns grey uint8 and mask uint8 (0 or
    1), both [image_size, image_size]. The mask is warped as the image is and is 1 where lung covers at least half of
    the output pixel. Jitter touches grey alone and, as in the paper's order, comes before the fill: the fill stays 0.
    """
    mask = np.not_equal(lungs, 0).view(np.uint8) * np.uint8(255)
    mask = _resample(mask, warp.homography, image_size)
    return warp_grey(grey, warp, image_size=image_size), (mask >= 128).view(np.uint8)


def warp_grey(grey: Image, warp: Warp, *, image_size: int) -> Image:
    """Warp a grey image alone, as ``apply_warp`` does, uint8 [image_size, image_size]."""
    return _resample(_jitter(grey, warp), warp.homography, image_size)


def _resample(image: Image, homography: Matrix, image_size: int) -> Image:
    """Warp ``image`` by means over areas where it shrinks, and bilinearly where it does not.

    As cv2.INTER_AREA does for an image that is not warped, a pixel of the output is the mean of as much of the input as
    it covers. One bilinear look alone would be sharper, by half at the paper's sizes, and a warped slice would show by
    that what it is.
    """
    size = image.shape[0]
    if np.array_equal(homography, plain_warp(input_size=size, image_size=image_size).homography):
        flag = cv2.INTER_AREA if image_size < size else cv2.INTER_LINEAR
        resized: Image = cv2.resize(image, (image_size, image_size), interpolation=flag)
        return resized
    scale = _scale_at_centre(homography, size)
    if scale < 1:
        taps = box_filter(1 / scale)
        image = cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
    warped: Image = cv2.warpPerspective(
        image, homography, (image_size, image_size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return warped


def box_filter(width: float) -> npt.NDArray[np.float64]:
    """Return a mean over ``width`` pixels, 1 or more, as filter taps with sum 1.

    Equal taps, and one at each end whose weight gives the variance that a box of this width adds to a pixel, itself a
    box of width 1: (width^2 - 1) / 12.
    """
    half = int((width - 1) // 2)  # full taps on each side of the middle
    variance, squares = (width**2 - 1) / 12, sum(k**2 for k in range(-half, half + 1))
    end = (variance * (2 * half + 1) - squares) / (2 * ((half + 1) ** 2 - variance))
    taps = np.array([end, *[1.0] * (2 * half + 1), end])
    return np.asarray(taps / taps.sum())


def _scale_at_centre(homography: Matrix, size: int) -> float:
    """Return the output pixels per input pixel along a side, at the centre of an image of side ``size``."""
    depth = float(homography[2] @ [(size - 1) / 2, (size - 1) / 2, 1.0])
    return math.sqrt(abs(float(np.linalg.det(homography)) / depth**3))


def _jitter(grey: Image, warp: Warp) -> Image:
    """Change brightness and contrast as torchvision does on uint8: truncated after each step, mean of the image."""
    steps = (("contrast", warp.contrast), ("brightness", warp.brightness))
    for name, factor in steps if warp.contrast_first else reversed(steps):
        if factor is None:
            continue
        offset = (1 - factor) * float(grey.mean()) if name == "contrast" else 0.0
        table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
        grey = cv2.LUT(grey, np.clip(table, 0, 255).astype(np.uint8))
    return grey


def _scaling(factor: float) -> Matrix:
    return np.diag([factor, factor, 1.0])


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _between_centres(matrix: Matrix) -> Matrix:
    """Turn a map between outer-corner coordinates into the same map between pixel-centre coordinates."""
    result: Matrix = _shift(-0.5, -0.5) @ matrix @ _shift(0.5, 0.5)
    return result
