"""Slices that come as PNG, TIFF or JPEG files: HU where it is known how the pixels stand for them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.rescale import AIR_HU, check_plausible
from cnr_iemn.ct.volume import MAX_VOXELS, Volume
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT, Permissions

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
VALUES = ("windowed", "hu")


@dataclass(frozen=True)
class ImageStack:
    """The slices of one scan as image files, head first.

    ``values``: windowed, 8 bits that span the window from black to white, or hu, 16 bits to which ``offset`` is added.
    ``spacing_mm``: slice step, row, column; None where nobody knows it.
    """

    scan_id: str
    files: tuple[Path, ...]
    values: str = "windowed"
    offset: float = 0.0
    spacing_mm: tuple[float, float, float] | None = None


def read_images(stack: ImageStack, *, window: tuple[float, float], allowed: Permissions = STRICT) -> Volume:
    """Return the volume of a stack of images; spacing and positions are NaN where the spacing is not known.

    ``window``: HU of black and of white in windowed images. Raises ScanError.
    """
    images, digests = [], []
    for path in stack.files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ScanError(
                f"{stack.scan_id}/{path.name}: cannot be read ({error.strerror}). Check the disk."
            ) from error
        digests.append(hashlib.sha256(data).digest())
        images.append(_decoded(data, f"{stack.scan_id}/{path.name}", stack))
        if images[-1].shape != images[0].shape:
            raise ScanError(
                f"{stack.scan_id}/{path.name}: {images[-1].shape} pixels, the first slice has {images[0].shape}. "
                "The slices of one scan must have one size."
            )
        if len(stack.files) * images[0].size > MAX_VOXELS:
            raise ScanError(f"{stack.scan_id}: {len(stack.files)} slices of {images[0].shape}: too many for one scan.")
    low, high = window
    stored = np.stack(images)
    values = low + stored * ((high - low) / 255.0) if stack.values == "windowed" else stored + stack.offset
    floor = min(AIR_HU, low) if stack.values == "windowed" else AIR_HU  # black is the window's end, wherever it lies
    outside = int(np.count_nonzero(values < floor))
    hu = np.clip(np.rint(values), floor, np.iinfo(np.int16).max).astype(np.int16)
    if not allowed.assume_hu:
        check_plausible(hu, outside, stack.scan_id)
    spacing = stack.spacing_mm or (np.nan, np.nan, np.nan)
    z = np.float64(-spacing[0]) * np.arange(len(hu))
    findings = tuple(
        text
        for text, holds in (
            (f"8-bit images taken as windowed from {low:g} to {high:g} HU", stack.values == "windowed"),
            ("compressed with loss: the pixel values are not the scanner's", _any_jpeg(stack.files)),
            ("spacing unknown: no volume in litres", stack.spacing_mm is None),
        )
        if holds
    )
    return Volume(hu, spacing, z, findings, False, hashlib.sha256(b"".join(digests)).hexdigest())


def _decoded(data: bytes, name: str, stack: ImageStack) -> NDArray[np.generic]:
    try:
        whole, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else (False, ())
    except cv2.error as error:  # such as a size that no memory holds
        raise ScanError(f"{name}: cannot be decoded as an image ({error.err}). Copy it again.") from error
    if not whole or not pages:
        raise ScanError(f"{name}: cannot be decoded as an image. Copy it again.")
    if len(pages) > 1:
        raise ScanError(f"{name}: {len(pages)} pages in one file. Give a file for each slice.")
    (image,) = pages
    if image.ndim == 3:
        colours = image[..., :3]
        if not (colours == colours[..., :1]).all():
            raise ScanError(f"{name}: a colour image, no CT slice. Give grey images.")
        image = colours[..., 0]
    wanted = np.uint8 if stack.values == "windowed" else np.uint16
    if image.dtype != wanted:
        bits = 8 * np.dtype(wanted).itemsize
        raise ScanError(
            f"{name}: pixels of type {image.dtype}, but values={stack.values} needs {bits} bits. Say values=hu with "
            "the offset for 16-bit images in HU, values=windowed for 8-bit ones."
        )
    return np.asarray(image)


def _any_jpeg(files: tuple[Path, ...]) -> bool:
    return any(path.suffix.lower() in {".jpg", ".jpeg"} for path in files)
