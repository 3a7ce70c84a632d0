"""Stored values to Hounsfield units, and the checks of the values of a whole scan."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEGLosslessSV1

from cnr_iemn.ct.io.codestreams import DAMAGED
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions

AIR_HU = -1024
"""Lowest value of a volume; also stands for what lies outside the field of view."""

_MAX_PADDING_HU = -900.0  # above, lung and tissue have such values, too
_AIR = -900  # HU; everything below counts as air
_SOFT_TISSUE = (-200, 200)  # HU
_MIN_SHARE = 0.005  # of all voxels, for each
_FEW = 8  # slices, among which one tells nothing
_MAX_SLOPE, _MAX_INTERCEPT = 1e3, 1e6  # beyond, a digit of the header is damaged

_HEAD, _TAILS = 64, (32, 64, 128)
"""Columns at a row's beginning and at its end."""
_BLOCK = 8
_N_BLOCKS = max(_TAILS) // _BLOCK
_MIN_ROWS, _MIN_COLUMNS = 48, 256
_NEAR, _FAR = 2, 20
"""Rows on either side that tell the noise; the nearest show the damage itself."""
_MIN_NOISE = 0.5
_MAX_SHARED = 0.25
"""Share of a row's shift that its neighbours and its own beginning may have."""
_MAX_SCORE = 10.0


def check_rescale(header: SliceHeader, options: ReadOptions = STRICT) -> None:
    """Refuse a missing or useless slope and intercept. Raises ScanError."""
    if not has_rescale(header) and not options.allow_missing_rescale:
        what = (
            "RescaleSlope is 0"
            if header.slope == 0
            else "RescaleSlope or RescaleIntercept is missing or makes no sense"
        )
        raise ScanError(
            RefusalCode.MISSING_RESCALE,
            f"{header.name}: {what}, so the values cannot be brought to HU. Scan refused; export it with its "
            "rescaling, or set ingest.allow_missing_rescale=true to take the stored values as HU.",
        )


def check_uniform_rescale(headers: Sequence[SliceHeader], options: ReadOptions = STRICT) -> None:
    """Refuse a scan of which a single slice has a slope or intercept of its own: its header is damaged.

    Where they vary from slice to slice nothing can be said. Raises ScanError.
    """
    pairs = Counter((header.slope, header.intercept) for header in headers if has_rescale(header))
    if len(pairs) != 2 or len(headers) < _FEW or options.allow_range_mismatch:
        return
    odd, count = pairs.most_common()[-1]
    if count == 1:
        name = next(header.name for header in headers if (header.slope, header.intercept) == odd)
        raise ScanError(
            RefusalCode.RESCALE_MISMATCH,
            f"{name}: RescaleSlope or RescaleIntercept differs from that of all other slices: damaged header. Scan "
            "refused; copy it again, or set ingest.allow_range_mismatch=true to accept it.",
        )


def has_rescale(header: SliceHeader) -> bool:
    """Tell whether stored values can be brought to HU by the header's slope and intercept (0028,1053/1052)."""
    if not header.slope or header.intercept is None:
        return False
    return abs(header.slope) <= _MAX_SLOPE and abs(header.intercept) <= _MAX_INTERCEPT


def _rescaling(header: SliceHeader) -> tuple[float, float]:
    return (header.slope or 1.0, header.intercept or 0.0) if has_rescale(header) else (1.0, 0.0)


def padding_findings(headers: Sequence[SliceHeader]) -> list[str]:
    """Return a finding where PixelPaddingValue (0028,0120 to 0028,0121) stands for a value that tissue has."""
    levels = set()
    for header in headers:
        if header.pixels.padding_range is not None:
            slope, intercept = _rescaling(header)
            levels.add(header.pixels.padding_range[1] * slope + intercept)
    return [
        f"PixelPaddingValue stands for {hu:g} HU, which tissue has: pixels of that value are taken as air"
        for hu in sorted(levels)
        if hu > _MAX_PADDING_HU
    ][:1]


def to_hu(stored: NDArray[np.integer], header: SliceHeader, out: NDArray[np.int16]) -> int:
    """Write stored x slope + intercept to ``out``, int16 [rows, columns]; return how many pixels are padding.

    Everything below -1024 HU and every padded pixel (0028,0120 to 0028,0121) becomes -1024. ``header`` must have passed
    ``check_rescale``; without a usable pair the stored values are HU.
    """
    slope, intercept = _rescaling(header)
    if slope == 1 and intercept.is_integer():
        if _add_intercept(stored, int(intercept), header, out):
            return 0
        hu = stored.astype(np.int32) + int(intercept)
    else:
        hu = np.rint(stored * slope + intercept)
    outside = hu < AIR_HU
    if header.pixels.padding_range is not None:
        low, high = header.pixels.padding_range
        outside |= (stored >= low) & (stored <= high)
    np.copyto(out, np.minimum(hu, np.iinfo(np.int16).max), casting="unsafe")
    out[outside] = AIR_HU
    return int(np.count_nonzero(outside))


def _add_intercept(stored: NDArray[np.integer], intercept: int, header: SliceHeader, out: NDArray[np.int16]) -> bool:
    """Add without leaving 16 bits where the values allow it and nothing lies below air, as in the usual file."""
    if header.pixels.padding is not None or stored.dtype.itemsize != 2 or not stored.dtype.isnative:
        return False
    limits = np.iinfo(np.int16)
    low, high = header.pixels.value_range
    if low + intercept < AIR_HU or high + max(intercept, 0) > limits.max:
        low, high = int(stored.min()), int(stored.max())
    if low + intercept < AIR_HU or high > limits.max or not limits.min <= intercept <= limits.max - high:
        return False
    np.add(stored.view(np.int16), np.int16(intercept), out=out)
    return True


def check_plausible(hu: NDArray[np.int16], padded: int, scan: str) -> None:
    """Refuse a volume without air or without soft tissue: inverted, not in HU, or wrongly decoded. Raises ScanError.

    ``padded``: voxels outside the field of view, which say nothing.
    """
    least = _MIN_SHARE * hu.size
    air = soft = 0
    for image in hu:
        air += int(np.count_nonzero(image <= _AIR))
        soft += cv2.countNonZero(cv2.inRange(image, *_SOFT_TISSUE))
        if min(air - padded, soft) >= least:
            return
    for name, count in (("air near -1000 HU", air - padded), ("soft tissue near 0 HU", soft)):
        if count < least:
            raise ScanError(
                RefusalCode.NOT_HU,
                f"{scan}: values {int(hu.min())}..{int(hu.max())}, no {name}: inverted or not in HU. Scan refused; "
                "export it again with its rescaling, or set ingest.assume_hu=true if these are HU all the same.",
            )


class RowCheck:
    """A scan's check for shifted rows of JPEG Lossless: ``add`` each slice, then ``verify``.

    Each pixel is stored as the difference from its left neighbour: a flipped bit shifts the rest of the row, and where
    the number of bits stays the same, only the image can tell. So the end of a row must not lie off the rows above and
    below while its beginning does not. Each row is compared with what four neighbours predict, averaged over its last
    columns, in units of the noise: the larger of its scatter over the rows around and along the row itself. What is
    wider than one row (edges, the table) is no such damage.
    """

    def __init__(self) -> None:
        self._shifts: list[tuple[str, int, float]] = []  # of each slice with a shifted row, the first one

    def add(self, stored: NDArray[np.integer], header: SliceHeader) -> None:
        """Take what counts of a slice's stored values with their sign, [rows, columns].

        Slices in another transfer syntax than JPEG Lossless with predictor 1, and small ones, are passed over.
        """
        rows, columns = stored.shape
        if header.pixels.transfer_syntax != JPEGLosslessSV1 or rows < _MIN_ROWS or columns < _MIN_COLUMNS:
            return
        shifts = _shifted_rows(stored, _MAX_SCORE)
        if shifts:
            self._shifts.append((header.name, *min(shifts)))

    def verify(self) -> None:
        """Raise ScanError for the first slice with a shifted row."""
        if self._shifts:
            name, row, shift = self._shifts[0]
            raise ScanError(
                RefusalCode.DAMAGED_PIXELS,
                f"{name}: the end of pixel row {row} lies {shift:+.0f} off the rows above and below: {DAMAGED}",
            )


def _shifted_rows(stored: NDArray[np.integer], max_score: float) -> list[tuple[int, float]]:
    """Return index and shift of the rows that are shifted."""
    last = stored[:, -max(_TAILS) :].astype(np.float32)
    means = cv2.resize(last, (_N_BLOCKS, len(last)), interpolation=cv2.INTER_AREA)  # of blocks of a row's last columns
    offsets = np.zeros_like(means)
    offsets[2:-2] = _offsets(means)
    shifts: list[tuple[int, float]] = []
    for tail in _TAILS:
        n_blocks = tail // _BLOCK
        tails = offsets[:, -n_blocks:]
        level, shift = means[:, -n_blocks:].mean(axis=1), tails.mean(axis=1)
        rows = np.flatnonzero(np.abs(shift) > max_score * _MIN_NOISE)
        above, below = level[rows - 1], level[rows + 1]
        bend = np.abs(above + below - level[rows - 2] - level[rows + 2]) / 2
        rows = rows[np.maximum(np.abs(above - below), bend) < _MAX_SHARED * np.abs(shift[rows])]
        scatter = tails[rows].var(axis=1, dtype=np.float64) * n_blocks / (n_blocks - 1) / n_blocks
        rows = rows[np.abs(shift[rows]) > max_score * np.sqrt(np.maximum(scatter, _MIN_NOISE**2))]
        for row in rows.tolist():
            distance = np.abs(np.arange(len(shift)) - row)
            around = np.square(shift[(distance > _NEAR) & (distance <= _FAR)], dtype=np.float64).mean()
            first = stored[row - 2 : row + 3, :_HEAD].astype(np.float32)
            beginning = abs(_offsets(cv2.reduce(first, 1, cv2.REDUCE_AVG)).item())
            if abs(shift[row]) > max_score * np.sqrt(around) and beginning < _MAX_SHARED * abs(shift[row]):
                shifts.append((row, float(shift[row])))
    return shifts


def _offsets(means: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return how far each row but the outer two is off the cubic through two rows on either side, [rows - 4, ...]."""
    return means[2:-2] - (4 * (means[1:-3] + means[3:-1]) - (means[:-4] + means[4:])) / 6
