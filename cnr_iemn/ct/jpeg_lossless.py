"""Whether a JPEG Lossless stream holds exactly the pixels that a decoder made of it.

Decoders pass over damage without a word. The pixels and the stream's Huffman table say how many bits the stream must
have; one that was read out of step has more or fewer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.streams import jpeg_segments

_Wide = NDArray[np.int32]
_PREDICTIONS: dict[int, Callable[[_Wide, _Wide, _Wide], _Wide]] = {
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}
"""By predictor (ITU-T T.81, table H.1)."""
_TABLE, _FRAME, _RESTART, _SCAN = 0xC4, 0xC3, 0xDD, 0xDA


@dataclass(frozen=True)
class _Scan:
    """``start``: of the data in the stream. ``shift``: the point transform. ``code_lengths``: by category, 0 to 16."""

    start: int
    precision: int
    predictor: int
    shift: int
    code_lengths: bytes


def wrong_length(stream: bytes, decoded: NDArray[np.integer]) -> str | None:
    """Return what shows that the stream of these pixels, [rows, columns], is damaged; None where nothing does.

    ``stream``: from its start to its end marker. Streams with restart markers or several components are not checked.
    """
    try:
        scan = _scan_of(stream)
    except (ValueError, IndexError, KeyError):
        return "the header of its JPEG stream makes no sense"
    return None if scan is None else _compare(stream[scan.start : -2], scan, decoded.astype(np.uint16, copy=False))


def _scan_of(stream: bytes) -> _Scan | None:
    """Return the only scan of the stream, None where there may be others or it has restart markers."""
    tables: dict[int, bytes] = {}
    precision = components = 0
    for marker, at in jpeg_segments(stream):
        size = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + size]
        if marker == _TABLE:
            tables |= _code_lengths(body)
        elif marker == _FRAME:
            precision, components = body[0], body[5]
        elif marker == _RESTART and int.from_bytes(body[:2], "big"):
            return None
        elif marker == _SCAN:
            if components != 1 or body[0] != 1:
                return None
            scan = _Scan(at + 2 + size, precision, body[3], body[5] & 15, tables[body[2] >> 4])
            if not (scan.predictor in _PREDICTIONS and scan.shift < scan.precision and scan.start < len(stream) - 2):
                break
            return scan
    raise ValueError("no scan of lossless JPEG")


def _code_lengths(body: bytes) -> dict[int, bytes]:
    """Return the Huffman tables of a segment: the length of each category's code, 0 where it has none."""
    tables = {}
    while body:
        counts = body[1:17]
        values = body[17 : 17 + sum(counts)]
        if body[0] < 16:  # the others, for coefficients, are of no use here
            lengths = bytearray(17)
            for category, length in zip(values, np.repeat(np.arange(1, 17), list(counts)), strict=True):
                lengths[category] = length
            tables[body[0]] = bytes(lengths)
        body = body[17 + sum(counts) :]
    return tables


def _compare(data: bytes, scan: _Scan, pixels: NDArray[np.uint16]) -> str | None:
    """Compare the bits in the stream's data with those that the pixels take.

    The last byte is filled up, fill bytes may follow before the end marker, and a byte more than needed is let pass.
    """
    used = len(data.rstrip(b"\xff"))
    values = np.frombuffer(data, np.uint8)
    escapes = np.flatnonzero(values[:used] == 0xFF)
    if values[escapes + 1].any():
        return "its JPEG stream has a marker within the image"
    coded = pixels >> np.uint16(scan.shift) if scan.shift else pixels
    needed = int(cv2.sumElems(cv2.LUT(_differences(coded, scan), _bits(scan.code_lengths)))[0])
    if 8 * (used - len(escapes) - 2) < needed <= 8 * (len(data) - len(escapes)):
        return None
    return f"its pixels take {needed:,} bits, its JPEG stream has {8 * (used - len(escapes)):,}"


@lru_cache(maxsize=16)
def _bits(code_lengths: bytes) -> NDArray[np.uint8]:
    """Return how many bits each difference takes, uint8 [65536], the index being the difference modulo 2**16.

    Its category is the number of its binary digits, which follow the category's code; category 16 is 32768 alone.
    """
    value = np.arange(2**16)
    size = np.minimum(value, 2**16 - value)
    category = np.searchsorted(2 ** np.arange(16), size, side="right")
    bits = np.frombuffer(code_lengths, np.uint8)[category] + np.where(category == 16, 0, category)
    return bits.astype(np.uint8)


def _differences(pixels: NDArray[np.uint16], scan: _Scan) -> NDArray[np.uint16]:
    """Return pixel minus prediction modulo 2**16, [rows, columns] (ITU-T T.81, H.1.2.1)."""
    result = np.empty(pixels.shape, np.uint16)
    flat = pixels.reshape(-1)
    np.subtract(flat[1:], flat[:-1], out=result.reshape(-1)[1:])  # the first row is right, the others where they are
    np.subtract(pixels[1:, :1], pixels[:-1, :1], out=result[1:, :1])
    result[:1, :1] = pixels[:1, :1] - np.uint16(1 << (scan.precision - scan.shift - 1))
    if scan.predictor == 1:
        return result
    wide = pixels.astype(np.int32)
    left, above, corner = wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    prediction = _PREDICTIONS[scan.predictor](left, above, corner)
    result[1:, 1:] = (wide[1:, 1:] - prediction).astype(np.uint16)
    return result
