"""Slices that come as PNG, TIFF or JPEG files: HU where it is known how the pixels stand for them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.folders import is_litter, natural_key
from cnr_iemn.ct.io.hounsfield import AIR_HU, check_plausible
from cnr_iemn.ct.volume import MAX_VOXELS, Volume
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions
from cnr_iemn.utils.text import visible

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
VALUES = ("windowed", "hu")
MIN_SIDE = 16
"""Pixels; smaller images are icons."""
_MIN_GREYS = 6  # in a scan; masks and labels have fewer
_MAX_TINT = 16  # of 255, between channels; what JPEG and grey of a viewer's own leave
_JPEG = b"\xff\xd8\xff"
_WINDOWED = "8-bit images taken as windowed"


@dataclass(frozen=True)
class ImageStack:
    """The slices of one scan as image files, head first.

    Attributes:
        values: "windowed", 8 bits that span the window from black to white, or "hu", integers of 16 or 32 bits or
            floating point, to which ``offset`` is added.
        spacing_mm: Slice step, row, column; None where it is not known.
    """

    scan_id: str
    files: tuple[Path, ...]
    values: str = "windowed"
    offset: float = 0.0
    spacing_mm: tuple[float, float, float] | None = None


def image_files(folder: Path) -> tuple[list[Path], int]:
    """Return the slices below a folder in natural order, which is head first, and how many other files there are.

    What operating systems and archives leave behind is neither.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and not is_litter(path.relative_to(folder))]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    return sorted(images, key=lambda image: natural_key(image.as_posix())), len(files) - len(images)


def values_of(findings: Collection[str]) -> str:
    """Return what the pixels of a scan stood for, one of VALUES. ``findings``: of its ``Volume``, or after it."""
    return "windowed" if any(finding.startswith(_WINDOWED) for finding in findings) else "hu"


def read_images(
    stack: ImageStack, *, window: tuple[float, float], options: ReadOptions = STRICT, numbered: bool = False
) -> Volume:
    """Return the volume of a stack of images; spacing and positions are NaN where the spacing is not known.

    Args:
        stack: The images.
        window: HU of black and of white in windowed images.
        options: ``assume_hu`` takes values that look like no HU.
        numbered: Messages call an image by its number in place of its name.

    Raises:
        ScanError: An image cannot be read, or the images are no slices of one scan.
    """
    low, high = window
    windowed = stack.values == "windowed"
    floor = min(AIR_HU, low) if windowed else AIR_HU  # black is the window's end, wherever it lies
    slices: list[NDArray[np.int16]] = []
    digests = []
    outside, tinted, lossy, greys = 0, 0, False, np.zeros(256, bool)
    for number, path in enumerate(stack.files, 1):
        name = f"{stack.scan_id} image {number}" if numbered else f"{stack.scan_id}/{visible(path.name)}"
        data = _read_bytes(path, name)
        lossy |= data.startswith(_JPEG)
        digests.append(hashlib.sha256(data).digest())
        image, tint = _grey(_decode(data, name), name)
        _check_type(image, name, stack)
        _check_size(image, slices[0] if slices else image, name, stack)
        tinted += tint
        if windowed:
            greys[np.unique(image)] = True
        values = low + image * ((high - low) / 255.0) if windowed else image + np.float64(stack.offset)
        outside += int(np.count_nonzero(values < floor))
        slices.append(np.rint(np.clip(values, floor, np.iinfo(np.int16).max)).astype(np.int16))
    hu = np.stack(slices)
    if windowed and np.count_nonzero(greys) < _MIN_GREYS:
        raise ScanError(
            RefusalCode.NO_CONTENT,
            f"{stack.scan_id}: {np.count_nonzero(greys)} grey values in all its pixels: a mask, labels or nothing, no "
            "CT slices. Give the slices themselves.",
        )
    if not windowed and not options.assume_hu:
        check_plausible(hu, outside, stack.scan_id)
    spacing = stack.spacing_mm or (np.nan, np.nan, np.nan)
    z = np.float64(-spacing[0]) * np.arange(len(hu))
    findings = tuple(
        text
        for text, applies in (
            (f"{_WINDOWED} from {low:g} to {high:g} HU", windowed),
            ("compressed with loss: the pixel values are not the scanner's", lossy),
            (f"{tinted} image(s) in colour that is almost grey, taken as grey", tinted > 0),
            ("spacing unknown: no volume in litres", stack.spacing_mm is None),
        )
        if applies
    )
    return Volume(hu, spacing, z, findings, False, hashlib.sha256(b"".join(digests)).hexdigest())


def _check_size(image: NDArray[Any], first: NDArray[Any], name: str, stack: ImageStack) -> None:
    if image.shape != first.shape:
        raise ScanError(
            RefusalCode.IMAGE_SIZE,
            f"{name}: {image.shape} pixels, the first slice has {first.shape}. "
            "The slices of one scan must have one size.",
        )
    if len(stack.files) * image.size > MAX_VOXELS:
        raise ScanError(
            RefusalCode.TOO_LARGE,
            f"{stack.scan_id}: {len(stack.files)} slices of {image.shape}: too many for one scan.",
        )


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScanError(RefusalCode.NO_ACCESS, f"{name}: cannot be read ({error.strerror}). Check the disk.") from error


def _decode(data: bytes, name: str) -> NDArray[Any]:
    try:
        whole, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else (False, ())
    except cv2.error as error:  # such as a size that no memory holds
        raise ScanError(
            RefusalCode.DAMAGED_IMAGE, f"{name}: cannot be decoded as an image ({error.err}). Copy it again."
        ) from error
    if not whole or not pages:
        raise ScanError(RefusalCode.DAMAGED_IMAGE, f"{name}: cannot be decoded as an image. Copy it again.")
    if len(pages) > 1:
        raise ScanError(RefusalCode.IMAGE_SIZE, f"{name}: {len(pages)} pages in one file. Give a file for each slice.")
    if min(pages[0].shape[:2]) < MIN_SIDE:
        raise ScanError(
            RefusalCode.IMAGE_SIZE,
            f"{name}: {pages[0].shape[0]} x {pages[0].shape[1]} pixels, no CT slice. Give the slices.",
        )
    return np.asarray(pages[0])


def _grey(image: NDArray[Any], name: str) -> tuple[NDArray[Any], bool]:
    """Return the one channel of an image [rows, columns], and whether its colours are only almost grey.

    ``image``: grey, or blue, green, red and perhaps opacity [rows, columns, channels]. A palette is applied already.
    """
    if image.ndim == 2:
        return image, False
    colours = image[..., :3]
    if image.shape[2] == 4 and (image[..., 3] != _opaque(image.dtype)).any():
        raise ScanError(
            RefusalCode.COLOUR_IMAGE,
            f"{name}: partly transparent, no CT slice. Export the slice without overlay or frame.",
        )
    if (colours == colours[..., :1]).all():
        return colours[..., 0], False
    spread = int((colours.max(axis=-1).astype(np.float64) - colours.min(axis=-1)).max())
    if image.dtype != np.uint8 or spread > _MAX_TINT:
        raise ScanError(
            RefusalCode.COLOUR_IMAGE,
            f"{name}: a colour image (channels differ by up to {spread} of {_opaque(image.dtype):g}; a drawing, a "
            "colour scale or a photograph). Give the grey slice as the viewer shows it without annotations.",
        )
    return cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_BGR2GRAY), True


def _opaque(kind: "np.dtype[Any]") -> float:
    return float(np.iinfo(kind).max) if np.issubdtype(kind, np.integer) else 1.0


def _check_type(image: NDArray[Any], name: str, stack: ImageStack) -> None:
    """Refuse pixels that cannot be what the stack says they are."""
    if stack.values == "windowed" and image.dtype != np.uint8:
        raise ScanError(
            RefusalCode.PIXEL_TYPE,
            f"{name}: pixels of type {image.dtype}, but values=windowed needs 8 bits. Where they are HU, or become so "
            "by an offset, list the scan in a CSV with values=hu and offset (docs/guide/data.md); else export 8 "
            "bits.",
        )
    if stack.values == "hu" and image.dtype in (np.uint8, np.int8):
        raise ScanError(
            RefusalCode.PIXEL_TYPE,
            f"{name}: pixels of type {image.dtype}, but values=hu needs 16 bits or more. Say values=windowed for "
            "8-bit images, or export the slices in HU.",
        )
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image.astype(np.float64)).all():
        raise ScanError(
            RefusalCode.PIXEL_TYPE, f"{name}: pixels that are not numbers (NaN or infinite). Export the slice again."
        )
