"""JPEG Lossless streams (ITU-T T.81, process 14) become pixels, or are refused where they do not fit them exactly.

Other decoders pass over damage without a word. Here a code that the stream's table does not have, and a stream that
ends before the last pixel or goes on after it, is an error: it was read out of step.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled
from cnr_iemn.ct.huffman import bits_of, huffman_tables, read_differences
from cnr_iemn.ct.streams import FRAME_MARKERS, jpeg_segments

_SENSELESS = "the header of its JPEG stream makes no sense"
_LOSSLESS, _TABLE, _SCAN, _RESTART = 0xC3, 0xC4, 0xDA, 0xDD


@dataclass(frozen=True)
class LosslessImage:
    """What the stream's header says.

    ``start``: of the data in the stream. ``shift``: the point transform. ``counts``, ``categories``: the Huffman
    table, see ``huffman_tables``.
    """

    start: int
    shape: tuple[int, int]
    precision: int
    predictor: int
    shift: int
    counts: bytes
    categories: bytes


def only_image(stream: bytes) -> LosslessImage | None:
    """Return what the stream's header says of its grey image, None where it has restart markers or several components.

    Raises ValueError.
    """
    tables: dict[int, tuple[bytes, bytes]] = {}
    frame = b""
    try:
        for marker, at in jpeg_segments(stream):
            end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
            body = stream[at + 4 : end]
            if marker == _TABLE:
                tables |= _tables_of(body)
            elif marker in FRAME_MARKERS:
                if frame or marker != _LOSSLESS:
                    break
                frame = body
            elif marker == _RESTART and any(body[:2]):
                return None
            elif marker == _SCAN:
                if body[0] != 1 or frame[5] != 1:
                    return None
                image = _first_image(frame, body, end, tables)
                if end >= len(stream) - 2:
                    break
                return image
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(_SENSELESS) from error
    raise ValueError(_SENSELESS)


def _first_image(frame: bytes, scan: bytes, start: int, tables: dict[int, tuple[bytes, bytes]]) -> LosslessImage:
    """Put together what the headers of frame and scan say (B.2.2, B.2.3). Raises ValueError, KeyError."""
    if (len(frame), len(scan)) != (9, 6):
        raise ValueError("one component takes 9 bytes of a frame's header and 6 of a scan's")
    precision, _, component, sampling = frame[0], frame[5], frame[6], divmod(frame[7], 16)
    shape = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    _, named, table, predictor, end, shifts = scan
    sense = (
        2 <= precision <= 16
        and min(shape) >= 1
        and all(1 <= factor <= 4 for factor in sampling)
        and named == component
        and 1 <= predictor <= 7
        and end == 0
        and shifts < precision  # its upper half, which is not for this process, is 0
    )
    if not sense:
        raise ValueError(f"frame {frame.hex()}, scan {scan.hex()}")
    return LosslessImage(start, shape, precision, predictor, shifts, *tables[table >> 4])


def _tables_of(body: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Return the Huffman tables of a segment (B.2.4.2), those for coefficients left out."""
    tables = {}
    while body:
        if len(body) < 17:
            raise ValueError("a table has 16 counts")
        n = sum(body[1:17])
        if body[0] < 16:
            tables[body[0]] = body[1:17], body[17 : 17 + n]
        body = body[17 + n :]
    return tables


def decode(stream: bytes, image: LosslessImage) -> NDArray[np.uint16]:
    """Return the pixels, [rows, columns], of a stream from its start to its end marker. ``image``: of ``only_image``.

    The last byte is filled up, fill bytes of 255 may follow before the end marker, the first of which may hold pixels,
    and a byte more than needed is let pass. Raises ValueError.
    """
    data = np.frombuffer(stream, np.uint8)[image.start : -2]
    fill = len(data) - len(bytes(data).rstrip(b"\xff")) if data[-1] == 0xFF else 0
    words, n_bytes = bits_of(data, fill)
    pixels = np.empty(image.shape, np.uint16)
    bits = read_differences(words, n_bytes, huffman_tables(image.counts, image.categories), pixels.reshape(-1))
    if bits > 8 * (n_bytes - max(fill - 1, 0)):
        raise ValueError("its JPEG stream ends before its last pixel")
    if bits <= 8 * (n_bytes - fill - 2):
        raise ValueError(f"its pixels take {bits:,} bits, its JPEG stream has {8 * (n_bytes - fill):,}")
    precision = image.precision - image.shift
    if _add_predictions(pixels, image.predictor, 1 << (precision - 1)) >> precision:
        raise ValueError(f"its pixels need more than the {precision} bits that its JPEG stream has for them")
    if image.shift:
        pixels <<= np.uint16(image.shift)
    return pixels


@compiled
def _add_predictions(pixels: NDArray[np.uint16], predictor: int, origin: int) -> int:
    """Turn differences, [rows, columns], into the pixels, in place and modulo 2**16 (H.1.2.1); return all their bits.

    ``predictor``: 1 to 7, of table H.1, for what lies neither in the first row nor in the first column. ``origin``:
    predicts the first pixel.
    """
    rows, columns = pixels.shape
    start, bits = origin, 0
    for row in range(rows):
        start = (start + int(pixels[row, 0])) & 0xFFFF
        pixels[row, 0] = left = start
        bits |= left
        for column in range(1, columns):
            predicted = left
            if predictor != 1 and row > 0:
                above, corner = int(pixels[row - 1, column]), int(pixels[row - 1, column - 1])
                if predictor == 2:
                    predicted = above
                elif predictor == 3:
                    predicted = corner
                elif predictor == 4:
                    predicted = left + above - corner
                elif predictor == 5:
                    predicted = left + ((above - corner) >> 1)
                elif predictor == 6:
                    predicted = above + ((left - corner) >> 1)
                else:
                    predicted = (left + above) >> 1
            left = (predicted + int(pixels[row, column])) & 0xFFFF
            pixels[row, column] = left
            bits |= left
    return bits
