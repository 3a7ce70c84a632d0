"""Values of DICOM elements as plain types, None where they are missing or make no sense."""

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
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


CHARACTER_SET = 0x00080005


class RawValue(NamedTuple):
    """A value as it is in the file. ``vr``: None where the file does not say; ``little``: endian."""

    vr: str | None
    value: bytes | None
    implicit: bool = False
    little: bool = True


class Elements:
    """The elements of a header by keyword. The slices of a scan share most values: each is converted once.

    pydicom converts an element at each look-up in a file's dataset, and looks for its tag and VR anew.
    ``encodings``: of texts; ``converted``: values of further elements, by tag.
    """

    def __init__(
        self, raw: dict[int, RawValue], encodings: tuple[str, ...], converted: dict[int, object] | None = None
    ) -> None:
        self._raw = raw
        self._encodings = encodings
        self._values = converted or {}

    @classmethod
    def of(cls, ds: Dataset) -> "Elements":
        """Return what pydicom has read."""
        raw, values = {}, {}
        for tag, element in ds.items():
            if isinstance(element, RawDataElement):
                raw[int(tag)] = RawValue(element.VR, element.value, element.is_implicit_VR, element.is_little_endian)
            else:
                values[int(tag)] = element.value
        encodings = ds.original_character_set
        return cls(raw, (encodings,) if isinstance(encodings, str) else tuple(encodings), values)

    @classmethod
    def explicit(cls, raw: dict[int, RawValue]) -> "Elements":
        """Return what was read of a file with explicit VR, little endian."""
        told = raw.get(CHARACTER_SET)
        return cls(raw, _encodings(told) if told else (default_encoding,))

    def get(self, keyword: str) -> object:
        """Return an element's value, None where it is missing. Raises what pydicom raises on a damaged one."""
        tag = _tag(keyword)
        raw = self._raw.get(tag)
        if raw is None:
            return self._values.get(tag)
        convert = _converted_once if len(raw.value or b"") <= _MAX_KEPT_BYTES else _converted
        return convert(tag, raw, self._encodings)

    def numbers(self, keyword: str) -> tuple[float, ...] | None:
        """Return an element's finite numbers, None where it is missing or holds anything else."""
        tag = _tag(keyword)
        raw = self._raw.get(tag)
        if raw is None or len(raw.value or b"") > _MAX_KEPT_BYTES:
            return _as_numbers(lambda: self.get(keyword))
        return _numbers_once(tag, raw, self._encodings)


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"DICOM has no element {keyword}.")
    return int(tag)


@lru_cache(maxsize=256)
def _encodings(told: RawValue) -> tuple[str, ...]:
    """Return the Python names of a Specific Character Set (0008,0005)."""
    return tuple(convert_encodings(_converted(CHARACTER_SET, told, (default_encoding,))))


def _converted(tag: int, raw: RawValue, encodings: tuple[str, ...]) -> object:
    value = raw.value or cast(bytes | None, empty_value_for_VR(raw.vr, raw=True))
    element = RawDataElement(Tag(tag), raw.vr, len(value or b""), value, 0, raw.implicit, raw.little)
    return convert_raw_data_element(element, encoding=list(encodings)).value


_MAX_KEPT_BYTES = 256
_converted_once = lru_cache(maxsize=4096)(_converted)


def _as_numbers(value_of: Callable[[], Any]) -> tuple[float, ...] | None:
    try:
        value = value_of()
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):  # no value, or text that is no number
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


@lru_cache(maxsize=4096)
def _numbers_once(tag: int, raw: RawValue, encodings: tuple[str, ...]) -> tuple[float, ...] | None:
    return _as_numbers(lambda: _converted_once(tag, raw, encodings))


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a value with one, several or none."""
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(part) for part in value) if isinstance(value, Sequence) else ()


def numbers(elements: Elements, keyword: str, count: int, *, most: float = math.inf) -> tuple[float, ...] | None:
    """Return so many finite numbers, None where the element is missing, empty, of another length or not finite.

    None also where one is larger than ``most``, its sign apart.
    """
    found = elements.numbers(keyword)
    if found is None or len(found) != count or any(abs(number) > most for number in found):
        return None
    return found


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
