"""Values of DICOM elements as plain types, None where they are missing or make no sense."""

import math
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

# what pydicom raises on damaged files
PARSE_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,  # a value representation that DICOM does not have
    EOFError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)


class Elements:
    """The elements of a dataset by keyword. The slices of a scan share most values: each is converted once.

    pydicom converts an element at each look-up in a file's dataset, and looks for its tag and VR anew.
    """

    def __init__(self, ds: Dataset) -> None:
        self._elements = {int(tag): element for tag, element in ds.items()}
        encodings = ds.original_character_set
        self._encodings = (encodings,) if isinstance(encodings, str) else tuple(encodings)

    def get(self, keyword: str) -> object:
        """Return an element's value, None where it is missing. Raises what pydicom raises on a damaged one."""
        element = self._elements.get(_tag(keyword))
        if not isinstance(element, RawDataElement):
            return None if element is None else element.value
        convert = _converted_once if element.length <= _MAX_KEPT_BYTES else _converted
        form = element.is_implicit_VR, element.is_little_endian, self._encodings
        return convert(int(element.tag), element.VR, element.value, *form)


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"DICOM has no element {keyword}.")
    return int(tag)


def _converted(
    tag: int, vr: str | None, value: bytes | None, implicit: bool, little: bool, encodings: tuple[str, ...]
) -> object:
    raw = RawDataElement(Tag(tag), vr, len(value or b""), value, 0, implicit, little)
    return convert_raw_data_element(raw, encoding=list(encodings)).value


_MAX_KEPT_BYTES = 256
_converted_once = lru_cache(maxsize=4096)(_converted)


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a value with one, several or none."""
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(part) for part in value) if isinstance(value, Sequence) else ()


def numbers(elements: Elements, keyword: str, count: int, *, most: float = math.inf) -> tuple[float, ...] | None:
    """Return so many finite numbers, None where the element is missing, empty, of another length or not finite.

    None also where one is larger than ``most``, its sign apart.
    """
    try:
        value: Any = elements.get(keyword)
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):  # no value, or text that is no number
        return None
    right = len(numbers) == count and all(math.isfinite(number) and abs(number) <= most for number in numbers)
    return numbers if right else None


def integer(elements: Elements, keyword: str) -> int | None:
    """Return a whole number, None where the element holds none."""
    number = numbers(elements, keyword, 1)
    return int(number[0]) if number else None


def pixel_value(elements: Elements, keyword: str, signed: bool) -> int | None:
    """Return a stored pixel value, which comes as bytes where the VR is implicit, and often as US though signed."""
    value = elements.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:
        value = int.from_bytes(value, "little")  # implicit VR is always little endian
    if not isinstance(value, int):
        return None
    value &= 0xFFFF
    return value - 0x10000 if signed and value >= 0x8000 else value
