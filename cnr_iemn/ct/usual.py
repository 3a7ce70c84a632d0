"""The header of the usual CT file, whose elements are walked over in a fraction of pydicom's time.

Usual: explicit VR, little endian (PS3.5, 7.1.2); file meta information as long as it says; elements in ascending order,
each whole and of a VR that DICOM has; sequences that end where they say. What is read here is what pydicom reads; all
else is left to it.
"""

import struct
from collections.abc import Container
from typing import NamedTuple

from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from cnr_iemn.ct.elements import CHARACTER_SET, RawValue

_element, _length, _tag = (struct.Struct(form).unpack_from for form in ("<HH2sH", "<L", "<HHL"))
_SHORT, _LONG = ({str(vr).encode() for vr in some} for some in (EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32))
_UNDEFINED = 0xFFFFFFFF
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}  # where a header ends, for pydicom too
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), 0xFFFEE00D, (0xFFFE, 0xE0DD)
_META, _ALL = range(0x00020000, 0x00030000), range(1 << 32)
_META_START = 132  # after the preamble and DICM
_MOST_DEPTH = 16


class UsualHeader(NamedTuple):
    """``meta``: file meta information; ``elements``: those that were wanted; ``offset``: of Pixel Data in the file."""

    meta: dict[int, RawValue]
    elements: dict[int, RawValue]
    offset: int


class _UnusualError(Exception):
    pass


def usual_header(head: bytes, wanted: Container[int]) -> UsualHeader | None:
    """Return the header that ``head``, the beginning of a file, holds whole; None where pydicom must read it.

    ``wanted``: tags, none of group 0002. Whether the transfer syntax in ``meta`` is one of explicit VR, little endian
    and not deflated is for the caller to see: in another one the elements make no sense.
    """
    meta: dict[int, RawValue] = {}
    elements: dict[int, RawValue] = {}
    if head[_META_START - 4 : _META_START] != b"DICM":
        return None
    try:
        group, number, _, length = _element(head, _META_START)
        if (group, number, length) != (2, 0, 4):
            return None
        start = _META_START + 12 + _length(head, _META_START + 8)[0]
        _walk(head, _META_START, start, _ALL, meta)
        if max(meta) not in _META or _element(head, start)[0] <= 2:
            return None
        offset = _walk(head, start, None, wanted, elements)
    except (_UnusualError, struct.error):  # struct.error: it goes on behind the head
        return None
    return UsualHeader(meta, elements, offset)


def _walk(
    data: bytes, at: int, end: int | None, wanted: Container[int], found: dict[int, RawValue], depth: int = 0
) -> int:
    """Add what is wanted to ``found``; return where the elements from ``at`` on end.

    That is at ``end``; where it is None, at Pixel Data or, within a sequence, behind the item's delimiter.
    """
    last = -1
    while at != end:
        group, number, vr, length = _element(data, at)
        tag = group << 16 | number
        if end is None and depth and tag == _ITEM_END:
            return _behind_delimiter(data, at)
        if end is None and not depth and tag in _PIXELS and at + 12 <= len(data):
            return at
        if vr in _SHORT:
            at += 8
        elif vr in _LONG:
            length = _length(data, at + 8)[0]
            at += 12
        else:
            raise _UnusualError
        if (tag <= last and not depth) or (tag == CHARACTER_SET and vr != b"CS"):
            raise _UnusualError
        last = tag
        if length == _UNDEFINED and vr in _LONG:
            if vr != b"SQ" or tag in wanted:
                raise _UnusualError
            at = _behind_items(data, at, depth + 1)
        else:
            if tag in wanted:
                found[tag] = RawValue(vr.decode(), data[at : at + length])
            at += length
        if at > (len(data) if end is None else end):
            raise _UnusualError
    return at


def _behind_items(data: bytes, at: int, depth: int) -> int:
    """Return where a sequence of undefined length ends."""
    if depth > _MOST_DEPTH:
        raise _UnusualError
    while True:
        group, number, length = _tag(data, at)
        if (group, number) == _SEQUENCE_END:
            return _behind_delimiter(data, at)
        if (group, number) != _ITEM:
            raise _UnusualError
        at += 8
        at = _walk(data, at, None if length == _UNDEFINED else at + length, (), {}, depth)


def _behind_delimiter(data: bytes, at: int) -> int:
    if _tag(data, at)[2]:
        raise _UnusualError
    return at + 8
