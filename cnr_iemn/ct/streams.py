"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read without a decoder."""

from collections.abc import Iterator

DAMAGED = "damaged pixel data. Scan refused; copy it again, or set ingest.allow_range_mismatch=true to accept it."
"""How a refusal ends that the permission lifts."""

FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0-15 of JPEG, SOF55 of JPEG-LS
_JPEG_2000 = b"\xff\x4f\xff\x51"
_MOST_ZEROS = 128
_ENCAPSULATED = {b"\xe0\x7f\x10\x00" + vr + b"\0\0\xff\xff\xff\xff" for vr in (b"OB", b"OW")}
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0" + bytes(4)
_MOST_SEGMENTS = 2**17  # a file made to take time has millions


def zero_filled(stream: bytes) -> str | None:
    """Return what shows that part of a JPEG 2000 stream, HTJ2K among them, was lost and filled with zeros; None if not.

    Decoders take zeros for empty packets and say nothing. Real streams have no more than 50 of them in a row: 11 to 16
    in 118 CT slices coded either way, 50 in an image of text among pydicom's files.
    """
    at = stream.find(bytes(_MOST_ZEROS))
    return None if at < 0 else f"its JPEG 2000 stream holds {_MOST_ZEROS} zeros in a row from byte {at:,}"


def stream_shape(stream: bytes) -> tuple[int, int]:
    """Return rows and columns as the codestream's own header says. Raises ValueError."""
    if stream[:4] == _JPEG_2000:  # SOC, then SIZ with the image's corners
        x1, y1, x0, y0 = (int.from_bytes(stream[8 + 4 * k : 12 + 4 * k], "big") for k in range(4))
        return y1 - y0, x1 - x0
    for marker, at in jpeg_segments(stream):
        if marker in FRAME_MARKERS:
            return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")
    raise ValueError("no frame header")


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, int]]:
    """Give marker and offset of each segment before the first scan's data. Raises ValueError where there is none."""
    if stream[:2] != b"\xff\xd8":
        raise ValueError("no start marker")
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(stream):
            break
        if stream[at] != 0xFF:
            raise ValueError("no marker")
        if stream[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        yield stream[at + 1], at
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")


def only_fragment(data: bytes, offset: int) -> bytes | None:
    """Return the compressed image of a file that holds one, in one piece, and ends with it; None where it does not.

    ``data``: the file; ``offset``: of Pixel Data, encapsulated (PS3.5, A.4) in explicit VR, little endian. All else is
    pydicom's to read.
    """
    start = offset + 12
    offsets = int.from_bytes(data[start + 4 : start + 8], "little")  # the length of the table that comes first
    item = start + 8 + offsets
    length = int.from_bytes(data[item + 4 : item + 8], "little")
    whole = (
        data[offset:start] in _ENCAPSULATED
        and data[start : start + 4] == data[item : item + 4] == _ITEM
        and data[start + 8 : item] in (b"", bytes(4))
        and data[item + 8 + length :] == _END
    )
    return data[item + 8 : item + 8 + length] if whole else None
