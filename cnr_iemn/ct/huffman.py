"""The bits of a JPEG Lossless stream become the differences that they stand for (ITU-T T.81, annexes F and H).

A stream is a chain: only where a code ends does one know where the next begins, so that a processor waits at each step
for the one before. Here it is read in several places at once. A reader that starts anywhere is soon in step with one
that came from the beginning, since Huffman codes fall into step by themselves; where the one before it comes to a
place that it has passed, they have met, and from there on they read the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled

Differences = NDArray[np.uint16]
"""Modulo 2**16."""

_LOOK = 12
"""Bits of a look: few codes with their digits are longer, and the tables fit a core's nearest cache."""
_LOOKS = 64 // _LOOK
_CODE = 16
"""Bits of the longest code; the longest difference takes twice as many."""
_PARTS = 4
"""Places at which a stream is read at once. With one it takes twice as long, with more as long as with these."""
_OVERLAP = 1024
"""Bits in which the reader of one part must meet that of the next; it takes less than 512."""
_BLOCK = 64  # bytes looked at together
_SPARE = 3  # words of 32 bits that may be looked at beyond the stream's last


@dataclass(frozen=True, eq=False)
class HuffmanTables:
    """What the next bits mean.

    ``lengths``, ``differences``: uint8 and uint16 [2**_LOOK], of a code and its digits together; 0 where they are
    longer than a look. ``codes``: uint16 [2**16], the code's own length and, times 256, its category; 0 where no code
    begins so. ``bits``: uint8 [2**16], how many each difference takes.
    """

    lengths: NDArray[np.uint8]
    differences: Differences
    codes: NDArray[np.uint16]
    bits: NDArray[np.uint8]


@lru_cache(maxsize=16)
def huffman_tables(counts: bytes, categories: bytes) -> HuffmanTables:
    """Return the tables for codes of 1 to 16 bits, ``counts`` of each, for these categories. Raises ValueError.

    Codes follow one another by length (C.2). A difference of category k has k digits and 2**(k-1) to 2**k - 1 as its
    size; a first digit 0 makes it negative (F.1.2.1); category 16, without digits, is 32768 (H.1.2.2).
    """
    length = np.repeat(np.arange(1, _CODE + 1), np.frombuffer(counts, np.uint8))
    category = np.frombuffer(categories, np.uint8).astype(int)
    begins_so = 1 << (_CODE - length)  # of the values of 16 bits
    unique = len(length) == len(category) == len(set(categories))
    if not unique or category.max(initial=0) > 16 or begins_so.sum() > 2**_CODE:
        raise ValueError("no Huffman table of lossless JPEG")
    codes = np.zeros(2**_CODE, np.uint16)
    codes[: begins_so.sum()] = np.repeat(length + 256 * category, begins_so)
    digits = np.arange(17) % 16
    whole = np.zeros(17, np.uint8)
    whole[category] = length + digits[category]
    ahead = np.arange(2**_LOOK) << (_CODE - _LOOK)
    category = codes[ahead] >> 8
    lengths = np.where((codes[ahead] > 0) & (whole[category] <= _LOOK), whole[category], 0)
    value = (ahead >> (_CODE - lengths.astype(int))) & ((1 << digits[category]) - 1)
    negative = value < 1 << digits[category] >> 1
    value = np.where(category == 16, 2**15, value - negative * ((1 << digits[category]) - 1))
    differences = np.where(lengths > 0, value, 0).astype(np.uint16)
    return HuffmanTables(lengths, differences, codes, whole[_categories()])


@lru_cache(maxsize=1)
def _categories() -> NDArray[np.intp]:
    """Return the category of each difference: the number of binary digits of its size."""
    value = np.arange(2**16)
    return np.searchsorted(2 ** np.arange(16), np.minimum(value, 2**16 - value), side="right")


def bits_of(data: NDArray[np.uint8], fill: int = 0) -> tuple[NDArray[np.uint32], int]:
    """Return a stream's data without the zeros that follow each 255 (F.1.2.3), 32 bits to a word, and its bytes.

    ``fill``: bytes of 255 that end it. Some words of zeros follow, which ``read_differences`` looks at. Raises
    ValueError where a marker interrupts it.
    """
    plain = np.empty(len(data) + 4 * (_SPARE + 1), np.uint8)
    n = _without_zeros(data, len(data) - fill, plain)
    if n < 0:
        raise ValueError("its JPEG stream has a marker within the image")
    plain = plain[: -(-n // 4) * 4 + 4 * _SPARE]
    plain[n:] = 0
    return plain.view(">u4").astype(np.uint32), n


@compiled
def _without_zeros(data: NDArray[np.uint8], used: int, out: NDArray[np.uint8]) -> int:
    """Copy ``data``, of which no 255 is the last of ``used`` bytes; return how many are left, -1 where a marker is met.

    Places are unsigned: of those no sign is looked at, and bytes are copied many at once.
    """
    at = start = np.uint64(0)
    one, block = np.uint64(1), np.uint64(_BLOCK)
    while start < len(data):
        end = min(start + block, np.uint64(len(data)))
        plain = end < used
        if plain:
            escapes = np.uint8(0)
            for k in range(_BLOCK):
                byte = data[start + np.uint64(k)]
                out[at + np.uint64(k)] = byte
                escapes |= np.uint8(byte == 0xFF)
            plain = escapes == 0
        if plain:
            start += block
            at += block
            continue
        while start < end:
            byte = data[start]
            out[at] = byte
            start += one
            at += one
            if byte == 0xFF and start < used:
                if data[start] != 0:
                    return -1
                start += one
    return int(np.int64(at))


def read_differences(words: NDArray[np.uint32], n_bytes: int, tables: HuffmanTables, out: Differences) -> int:
    """Fill ``out``, [n], with a stream's first n differences; return how many bits they take.

    ``words``, ``n_bytes``: of ``bits_of``. Raises ValueError where there are fewer.
    """
    for n_parts in (_PARTS, 1):  # where parts have not met, or there are too few, it is read as one, which tells
        starts = np.arange(n_parts) * (8 * n_bytes) // n_parts
        bits = _read_parts(words, starts, 8 * n_bytes, tables, out)
        if bits >= 0:
            return bits
    raise ValueError("its JPEG stream ends before its last pixel, or has a code that is not in its Huffman table")


def _read_parts(
    words: NDArray[np.uint32], starts: NDArray[np.int64], n_bits: int, tables: HuffmanTables, out: Differences
) -> int:
    """Do as ``read_differences``, beginning at each of ``starts``; return -1 where that fails."""
    places, ends = starts.copy(), np.full(len(starts), n_bits)
    ends[:-1] = np.minimum(starts[1:] + _OVERLAP, n_bits)
    counts = np.zeros(len(starts), np.int64)
    read = np.empty((len(starts), len(out) + _LOOKS), np.uint16)
    _read(words, tables.lengths, tables.differences, tables.codes, places, ends, counts, read)
    return _join(read, counts, starts, places, tables.bits, out)


@compiled
def _join(
    read: Differences,
    counts: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    bits: NDArray[np.uint8],
    out: Differences,
) -> int:
    """Put what was read of each part behind what was read before it, from where they have met."""
    filled = 0
    for part in range(len(counts)):
        first = 0
        if part > 0:
            at = starts[part]
            while first < counts[part] and at < ends[part - 1]:
                at += bits[read[part, first]]
                first += 1
            if at != ends[part - 1]:
                return -1
        last = min(counts[part], first + len(out) - filled)
        out[filled : filled + last - first] = read[part, first:last]
        filled += last - first
        if filled == len(out):
            taken = ends[part]
            for k in range(last, counts[part]):  # more than were asked for
                taken -= bits[read[part, k]]
            return int(taken)
    return -1


@compiled
def _read(
    words: NDArray[np.uint32],
    lengths: NDArray[np.uint8],
    differences: Differences,
    codes: NDArray[np.uint16],
    places: NDArray[np.int64],
    ends: NDArray[np.int64],
    counts: NDArray[np.int64],
    out: Differences,
) -> None:
    """Read some differences at each of ``places`` in turn, until each has come to its end, or to no code."""
    most = out.shape[1] - _LOOKS
    reading = True
    while reading:
        reading = False
        for part in range(len(places)):
            at, count = places[part], counts[part]
            if at >= ends[part] or count >= most:
                continue
            k, used = at >> 5, np.uint64(at & 31)
            first, second, third = np.uint64(words[k]), np.uint64(words[k + 1]), np.uint64(words[k + 2])
            ahead = ((first << np.uint64(32) | second) << used) | (third >> (np.uint64(32) - used))
            look = ahead >> np.uint64(64 - _LOOK)
            n = int(lengths[look])
            if n > 0:
                for _ in range(_LOOKS):
                    out[part, count] = differences[look]
                    count += 1
                    at += n
                    ahead <<= np.uint64(n)
                    look = ahead >> np.uint64(64 - _LOOK)
                    n = int(lengths[look])
                    if n == 0:
                        break
            else:
                code = int(codes[ahead >> np.uint64(48)])
                if code == 0:
                    ends[part] = 0
                    continue
                n, category = code & 255, code >> 8
                value = 2**15 if category == 16 else 0
                if 0 < category < 16:
                    value = int(np.int64((ahead << np.uint64(n)) >> np.uint64(64 - category)))
                    if value < 1 << (category - 1):
                        value -= (1 << category) - 1
                    n += category
                out[part, count] = value & 0xFFFF
                count += 1
                at += n
            places[part], counts[part] = at, count
            reading = True
