"""Stored values to Hounsfield units."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.ct.pixel_format import PixelFormat
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT, Permissions

AIR_HU = -1024
"""Lowest value of a volume; also stands for what lies outside the field of view."""

_AIR = -900  # HU; everything below counts as air
_SOFT_TISSUE = (-200, 200)  # HU
_LEAST_SHARE = 0.005  # of all voxels, for each
_FEW = 8  # slices, among which one tells nothing
_MOST_SLOPE, _MOST_INTERCEPT = 1e3, 1e6  # beyond, a digit of the header is damaged


def check_rescale(header: SliceHeader, allowed: Permissions = STRICT) -> None:
    """Refuse a missing or useless slope and intercept. Raises ScanError."""
    if not has_rescale(header) and not allowed.allow_missing_rescale:
        what = (
            "RescaleSlope is 0"
            if header.slope == 0
            else "RescaleSlope or RescaleIntercept is missing or makes no sense"
        )
        raise ScanError(
            f"{header.name}: {what}, so the values cannot be brought to HU. Scan refused; export it with its "
            "rescaling, or set ingest.allow_missing_rescale=true to take the stored values as HU."
        )


def check_alike(headers: Sequence[SliceHeader], allowed: Permissions = STRICT) -> None:
    """Refuse a scan of which a single slice has a slope or intercept of its own: its header is damaged.

    Where they vary from slice to slice nothing can be said. Raises ScanError.
    """
    pairs = Counter((header.slope, header.intercept) for header in headers if has_rescale(header))
    if len(pairs) != 2 or len(headers) < _FEW or allowed.allow_range_mismatch:
        return
    odd, count = pairs.most_common()[-1]
    if count == 1:
        name = next(header.name for header in headers if (header.slope, header.intercept) == odd)
        raise ScanError(
            f"{name}: RescaleSlope or RescaleIntercept is another one than in all other slices: damaged header. Scan "
            "refused; copy it again, or set ingest.allow_range_mismatch=true to accept it."
        )


def has_rescale(header: SliceHeader) -> bool:
    """Tell whether stored values can be brought to HU by the header's slope and intercept (0028,1053/1052)."""
    if not header.slope or header.intercept is None:
        return False
    return abs(header.slope) <= _MOST_SLOPE and abs(header.intercept) <= _MOST_INTERCEPT


def padding_beyond_bits(wide: NDArray[np.int32], pixels: PixelFormat) -> NDArray[np.int32] | None:
    """Return the padding that does not fit BitsStored, 0 elsewhere; None where the header states no such padding.

    ``wide``: all bits of the pixels, int32 [rows, columns]; of the result, too, where the values are signed as the
    header says.
    """
    if pixels.padding is None:
        return None
    bits = pixels.bits_stored or 16
    ends = sorted((pixels.padding, pixels.padding if pixels.padding_limit is None else pixels.padding_limit))
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if pixels.signed else (0, (1 << bits) - 1)
    if least <= ends[0] and ends[1] <= most:
        return None
    raw = wide & 0xFFFF
    raw = (raw ^ 0x8000) - 0x8000 if pixels.signed else raw
    padded = (raw >= ends[0]) & (raw <= ends[1]) & ((raw < least) | (raw > most))
    return np.where(padded, raw, 0)


def to_hu(stored: NDArray[np.integer], header: SliceHeader, out: NDArray[np.int16]) -> int:
    """Write stored x slope + intercept to ``out``, int16 [rows, columns]; return how many pixels are padding.

    Everything below -1024 HU and every padded pixel (0028,0120 to 0028,0121) becomes -1024. ``header`` must have passed
    ``check_rescale``; without a usable pair the stored values are HU.
    """
    slope, intercept = (header.slope or 1.0, header.intercept or 0.0) if has_rescale(header) else (1.0, 0.0)
    if slope == 1 and intercept.is_integer():
        if _add_intercept(stored, int(intercept), header, out):
            return 0
        hu = stored.astype(np.int32) + int(intercept)
    else:
        hu = np.rint(stored * slope + intercept)
    outside = hu < AIR_HU
    if header.pixels.padding is not None:
        limit = header.pixels.padding_limit
        low, high = sorted((header.pixels.padding, header.pixels.padding if limit is None else limit))
        outside |= (stored >= low) & (stored <= high)
    np.copyto(out, np.minimum(hu, np.iinfo(np.int16).max), casting="unsafe")
    out[outside] = AIR_HU
    return int(np.count_nonzero(outside))


def _add_intercept(stored: NDArray[np.integer], intercept: int, header: SliceHeader, out: NDArray[np.int16]) -> bool:
    """Add without leaving 16 bits where the values allow it and nothing lies below air, as in the usual file."""
    if header.pixels.padding is not None or stored.dtype.itemsize != 2 or not stored.dtype.isnative:
        return False
    bits, limits = header.pixels.bits_stored or 16, np.iinfo(np.int16)
    low, high = 0, (1 << bits) - 1  # whatever they are
    if header.pixels.signed or low + intercept < AIR_HU or high + max(intercept, 0) > limits.max:
        low, high = int(stored.min()), int(stored.max())
    if low + intercept < AIR_HU or high > limits.max or not limits.min <= intercept <= limits.max - high:
        return False
    np.add(stored.view(np.int16), np.int16(intercept), out=out)
    return True


def check_plausible(hu: NDArray[np.int16], padded: int, scan: str) -> None:
    """Refuse a volume without air or without soft tissue: inverted, not in HU, or wrongly decoded. Raises ScanError.

    ``padded``: voxels outside the field of view, which say nothing.
    """
    least = _LEAST_SHARE * hu.size
    air = soft = 0
    for image in hu:
        air += int(np.count_nonzero(image <= _AIR))
        soft += cv2.countNonZero(cv2.inRange(image, *_SOFT_TISSUE))
        if min(air - padded, soft) >= least:
            return
    for name, count in (("air near -1000 HU", air - padded), ("soft tissue near 0 HU", soft)):
        if count < least:
            raise ScanError(
                f"{scan}: values {int(hu.min())}..{int(hu.max())}, no {name}: inverted or not in HU. Scan refused; "
                "export it again with its rescaling, or set ingest.assume_hu=true if these are HU all the same."
            )
