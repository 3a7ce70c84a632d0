"""Codestreams of JPEG, JPEG-LS and JPEG 2000: headers without a decoder, and damage that decoders ignore.

A JPEG Lossless stream (ITU-T T.81, process 14) must hold exactly the pixels that were decoded from it: pixels and
Huffman table give the bits that it must have, and a decoder that lost its place used more or fewer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

DAMAGED = "damaged pixel data. Scan refused; copy it again, or set ingest.allow_range_mismatch=true to accept it."
"""The end of every refusal that this option lifts."""
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 of JPEG, SOF55 of JPEG-LS."""

_JPEG_2000 = b"\xff\x4f\xff\x51"
_MAX_ZEROS = 128
_MAX_SEGMENTS = 2**17  # a hostile file has millions

_Wide = NDArray[np.int32]
_PREDICTORS: dict[int, Callable[[_Wide, _Wide, _Wide], _Wide]] = {  # T.81, table H.1
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}
_SENSELESS = "the header of its JPEG stream makes no sense"
_LOSSLESS, _TABLE, _SCAN, _RESTART = 0xC3, 0xC4, 0xDA, 0xDD
_LAST_PIXELS = 64
"""So many pixels at the end are compared bit by bit."""
_NO_CODE = 0xFF
_UNKNOWN_CODE = "its JPEG stream has a code that is not in its Huffman table"


def describe_zero_run(stream: bytes) -> str | None:
    """Describe the part of a JPEG 2000 or HTJ2K stream that was lost and filled with zeros, None if there is none.

    Decoders take zeros for empty packets without an error. Real streams have at most 50 in a row: 11 to 16 in 118 CT
    slices in either format, 50 in an image of text among pydicom's files.
    """
    start = stream.find(bytes(_MAX_ZEROS))
    return None if start < 0 else f"its JPEG 2000 stream holds {_MAX_ZEROS} zeros in a row from byte {start:,}"


def stream_shape(stream: bytes) -> tuple[int, int]:
    """Return rows and columns from the codestream's own header.

    Raises:
        ValueError: It has none.
    """
    if stream[:4] == _JPEG_2000:  # SOC, then SIZ with the image's corners
        x1, y1, x0, y0 = (int.from_bytes(stream[8 + 4 * k : 12 + 4 * k], "big") for k in range(4))
        return y1 - y0, x1 - x0
    for marker, start in _jpeg_segments(stream):
        if marker in _FRAME_MARKERS:
            rows, columns = stream[start + 5 : start + 7], stream[start + 7 : start + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
    raise ValueError("no frame header")


def _jpeg_segments(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and offset of each segment before the data of the first scan.

    Raises:
        ValueError: The stream is not JPEG.
    """
    if stream[:2] != b"\xff\xd8":
        raise ValueError("no start marker")
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        if offset + 4 > len(stream):
            break
        if stream[offset] != 0xFF:
            raise ValueError("no marker")
        if stream[offset + 1] == 0xFF:  # fill byte
            offset += 1
            continue
        yield stream[offset + 1], offset
        offset += 2 + int.from_bytes(stream[offset + 2 : offset + 4], "big")


@dataclass(frozen=True)
class LosslessScan:
    """The header of a stream with one scan of one component.

    Attributes:
        start: Offset of the entropy-coded data in the stream.
        precision: Bits of a pixel.
        predictor: 1 to 7 (T.81, table H.1).
        shift: The point transform: lower bits that were dropped.
        codes: The Huffman code of each category of differences, as text of 0 and 1.
    """

    start: int
    precision: int
    predictor: int
    shift: int
    codes: tuple[tuple[int, str], ...]


def parse_single_scan(stream: bytes) -> LosslessScan | None:
    """Return the header of a grey image, None for a stream with restart markers or several components.

    Raises:
        ValueError: The header contradicts itself.
    """
    tables: dict[int, tuple[tuple[int, str], ...]] = {}
    frame = b""
    try:
        for marker, offset in _jpeg_segments(stream):
            end = offset + 2 + int.from_bytes(stream[offset + 2 : offset + 4], "big")
            body = stream[offset + 4 : end]
            if marker == _TABLE:
                tables |= _huffman_codes(body)
            elif marker in _FRAME_MARKERS:
                if frame or marker != _LOSSLESS:
                    break
                frame = body
            elif marker == _RESTART and any(body[:2]):
                return None
            elif marker == _SCAN:
                if body[0] != 1 or frame[5] != 1:
                    return None
                if end >= len(stream) - 2:
                    break
                return _combine_headers(frame, body, end, tables)
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(_SENSELESS) from error
    raise ValueError(_SENSELESS)


def _combine_headers(
    frame: bytes, scan: bytes, start: int, tables: dict[int, tuple[tuple[int, str], ...]]
) -> LosslessScan:
    """Combine the headers of frame and scan (T.81, B.2.2 and B.2.3)."""
    if (len(frame), len(scan)) != (9, 6):
        raise ValueError("one component takes 9 bytes of a frame's header and 6 of a scan's")
    precision, component, sampling = frame[0], frame[6], divmod(frame[7], 16)
    _, selector, table, predictor, end, shifts = scan
    valid = (
        2 <= precision <= 16
        and any(frame[1:3])
        and any(frame[3:5])
        and all(1 <= factor <= 4 for factor in sampling)
        and selector == component
        and predictor in _PREDICTORS
        and end == 0
        and shifts < precision  # its upper half, for successive approximation, is 0
    )
    if not valid:
        raise ValueError(f"frame {frame.hex()}, scan {scan.hex()}")
    return LosslessScan(start, precision, predictor, shifts, tables[table >> 4])


def _huffman_codes(body: bytes) -> dict[int, tuple[tuple[int, str], ...]]:
    """Return the tables of a segment, those of DCT coefficients left out (T.81, B.2.4.2 and C.2)."""
    tables = {}
    while body:
        counts, total = body[1:17], sum(body[1:17])
        categories = body[17 : 17 + total]
        if len(counts) < 16:
            raise ValueError("a table has 16 counts")
        if body[0] < 16:
            if len(categories) < total or len(set(categories)) < total or max(categories, default=17) > 16:
                raise ValueError("no table of categories 0 to 16")
            codes, code, length = [], 0, 0
            for category, bits in zip(categories, np.repeat(np.arange(1, 17), list(counts)).tolist(), strict=True):
                code <<= bits - length
                length = bits
                if code >= 1 << bits:
                    raise ValueError("more codes than bits allow")
                codes.append((category, f"{code:0{bits}b}"))
                code += 1
            tables[body[0]] = tuple(codes)
        body = body[17 + total :]
    return tables


def check_pixels(stream: bytes, scan: LosslessScan, pixels: NDArray[np.integer]) -> None:
    """Refuse a stream, from its start to its end marker, that does not hold exactly these pixels.

    Encoders fill up the last byte and may write fill bytes of 255 before the end marker, and some write one byte too
    many: all of this passes.

    Args:
        stream: The codestream without padding behind its end marker.
        scan: Its header.
        pixels: Decoded values, uint8 or uint16 [rows, columns].

    Raises:
        ValueError: The stream has a marker within the image, a code that its table lacks, or too few or too many bits.
    """
    data = stream[scan.start : -2].rstrip(b"\xff")
    values = np.frombuffer(data, np.uint8)
    escapes = np.flatnonzero(values == 0xFF)  # each is followed by a 0 that is no data (T.81, F.1.2.3)
    if values[escapes + 1].any():
        raise ValueError("its JPEG stream has a marker within the image")
    available = 8 * (len(data) - len(escapes))
    coded = pixels.astype(np.uint16, copy=False)
    if scan.shift:
        coded = coded >> np.uint16(scan.shift)
    differences = _differences(coded, scan)
    lengths = cv2.LUT(differences, _bit_lengths(scan.codes))
    if lengths.max() == _NO_CODE:
        raise ValueError(_UNKNOWN_CODE)
    bits = int(cv2.sumElems(lengths)[0])
    if bits > available:
        raise ValueError("its JPEG stream ends before its last pixel")
    if bits <= available - 16:
        raise ValueError(f"its pixels take {bits:,} bits, its JPEG stream has {available:,}")
    if not _ends_with(data, available - bits, differences.reshape(-1)[-_LAST_PIXELS:].tolist(), scan):
        # a decoder reads an unknown code as category 0, but takes more bits than the code of that category has
        raise ValueError(_UNKNOWN_CODE)
    precision = scan.precision - scan.shift
    if int(coded.max()) >> precision:
        raise ValueError(f"its pixels need more than the {precision} bits that its JPEG stream has for them")


def _differences(pixels: NDArray[np.uint16], scan: LosslessScan) -> NDArray[np.uint16]:
    """Return pixel minus prediction modulo 2**16, [rows, columns] (T.81, H.1.2.1)."""
    result = np.empty(pixels.shape, np.uint16)
    flat = pixels.reshape(-1)
    np.subtract(flat[1:], flat[:-1], out=result.reshape(-1)[1:])  # right but for the first column
    np.subtract(pixels[1:, :1], pixels[:-1, :1], out=result[1:, :1])
    result[0, 0] = (int(pixels[0, 0]) - (1 << (scan.precision - scan.shift - 1))) % 2**16
    if scan.predictor == 1:
        return result
    wide = pixels.astype(np.int32)
    prediction = _PREDICTORS[scan.predictor](wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1])
    result[1:, 1:] = (wide[1:, 1:] - prediction).astype(np.uint16)
    return result


@lru_cache(maxsize=16)
def _bit_lengths(codes: tuple[tuple[int, str], ...]) -> NDArray[np.uint8]:
    """Return the bits of each difference modulo 2**16, uint8 [65536]: code, then as many digits as its category says.

    The category is the number of binary digits; category 16, for 32768 alone, has none.
    """
    value = np.arange(2**16)
    category = np.searchsorted(2 ** np.arange(16), np.minimum(value, 2**16 - value), side="right")
    bits = np.full(17, _NO_CODE, np.uint8)
    for index, code in codes:
        bits[index] = len(code) + index % 16
    return bits[category]


def _ends_with(data: bytes, spare: int, differences: list[int], scan: LosslessScan) -> bool:
    """Tell whether the codes of the last differences are the last bits of the data but for the spare ones."""
    codes, text = dict(scan.codes), ""
    for difference in differences:
        category = min(difference, 2**16 - difference).bit_length()
        digits = difference if difference < 2**15 else difference - 2**16 + (1 << category) - 1
        text += codes[category] + (f"{digits:0{category}b}" if 0 < category < 16 else "")
    tail = data[-(len(text) // 4 + 8) :].replace(b"\xff\0", b"\xff")  # half of its bytes may be escapes
    bits = f"{int.from_bytes(tail):0{8 * len(tail)}b}"
    return bits[: len(bits) - spare].endswith(text)
