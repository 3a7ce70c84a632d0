"""Values of DICOM elements as plain types, None where they are missing or make no sense."""

import math
from collections.abc import Sequence

from pydicom.dataset import Dataset


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a value with one, several or none."""
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(part) for part in value) if isinstance(value, Sequence) else ()


def numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return so many finite numbers, None where the element is missing, empty, of another length or not finite."""
    try:
        value = ds.get(keyword)
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):  # no value, or text that is no number
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def integer(ds: Dataset, keyword: str) -> int | None:
    """Return a whole number, None where the element holds none."""
    number = numbers(ds, keyword, 1)
    return int(number[0]) if number else None


def pixel_value(ds: Dataset, keyword: str, signed: bool) -> int | None:
    """Return a stored pixel value, which comes as bytes where the VR is implicit, and often as US though signed."""
    value = ds.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:
        value = int.from_bytes(value, "little")  # implicit VR is always little endian
    if not isinstance(value, int):
        return None
    value &= 0xFFFF
    return value - 0x10000 if signed and value >= 0x8000 else value
