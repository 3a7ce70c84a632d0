"""How a scan was taken and stored, as numbers and opaque codes: what must not tell its class.

No free text of a DICOM file leaves this module: it can hold names. A code tells only whether two scans have the same.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cnr_iemn.ct.elements import PARSE_ERRORS, Elements, numbers, texts

_USUAL_KERNELS = re.compile(
    r"[BDHIJQSTU][flnprv]?\d\d[adfhlmps]?(/\d)?"  # Siemens: B70f, Br40d, I31f/3
    r"|FC\d\d"  # Canon
    r"|BONE|BONEPLUS|CHST|DETAIL|EDGE|LUNG|SOFT|STANDARD|STND|ULTRA"  # GE
    r"|[A-F]|L|Y[A-D]"  # Philips
)
ABSENT = "absent"
"""Code of a DICOM file that does not say."""
ACQUISITION_KEYWORDS = ["Manufacturer", "ManufacturerModelName", "KVP", "SliceThickness", "XRayTubeCurrent"]


@dataclass(frozen=True)
class Acquisition:
    """Of a scan or a slice. Numbers are NaN, and codes None, where there is no DICOM file to say; numbers also where
    it does not, codes are then ABSENT.

    ``kernel``, ``manufacturer``, ``model``: see ``code_of``. ``transfer_syntax``: DICOM's own UID. ``kvp``: kV.
    ``header_bytes``: of a file before its pixels; how well these compress is told by the lungs, too, and left out.
    ``field_of_view_mm``: columns times their spacing.
    """

    kernel: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    transfer_syntax: str | None = None
    kvp: float = math.nan
    slice_thickness_mm: float = math.nan
    tube_current_ma: float = math.nan
    bits_stored: float = math.nan
    header_bytes: float = math.nan
    field_of_view_mm: float = math.nan


CODES = ("kernel", "manufacturer", "model", "transfer_syntax")
NUMBERS = tuple(name for name in Acquisition.__dataclass_fields__ if name not in CODES)
UNKNOWN = Acquisition()


def slice_acquisition(
    elements: Elements, *, transfer_syntax: str, bits_stored: int | None, header_bytes: int | None, enhanced: bool
) -> Acquisition:
    """Return what one slice's header says. A damaged element counts as missing: no pixel depends on it.

    ``header_bytes``: before the pixels, None where it is not known. ``enhanced``: a frame of a multi-frame file.
    """
    return Acquisition(
        kernel=_code(elements, "ConvolutionKernel"),
        manufacturer=_code(elements, "Manufacturer"),
        model=_code(elements, "ManufacturerModelName"),
        transfer_syntax=transfer_syntax,
        kvp=_number(elements, "KVP"),
        slice_thickness_mm=_number(elements, "SliceThickness"),
        tube_current_ma=_number(elements, "XRayTubeCurrentInmA" if enhanced else "XRayTubeCurrent"),
        bits_stored=math.nan if bits_stored is None else float(bits_stored),
        header_bytes=math.nan if header_bytes is None else float(header_bytes),
    )


def typical(slices: Sequence[Acquisition]) -> Acquisition:
    """Return the most frequent code and the median of each number over the slices of a scan, of which there is one."""
    found: dict[str, Any] = {}
    for name in CODES:
        found[name] = Counter(getattr(each, name) for each in slices).most_common(1)[0][0]
    for name in NUMBERS:
        values = [value for each in slices if not math.isnan(value := getattr(each, name))]
        found[name] = float(np.median(values)) if values else math.nan
    return Acquisition(**found)


@lru_cache(maxsize=1024)
def code_of(text: str) -> str:
    """Return 8 hexadecimal digits that stand for a text, whatever its case and spaces; ABSENT for an empty one."""
    plain = " ".join(text.split()).casefold()
    return hashlib.sha256(plain.encode()).hexdigest()[:8] if plain else ABSENT


def told_kernel(kernel: str) -> str:
    """Return what messages call a kernel: its name where that is a usual one, else its code."""
    return kernel if _USUAL_KERNELS.fullmatch(kernel) else code_of(kernel)


def _code(elements: Elements, keyword: str) -> str:
    try:
        return code_of("/".join(texts(elements.get(keyword))))
    except PARSE_ERRORS:
        return ABSENT


def _number(elements: Elements, keyword: str) -> float:
    try:
        found = numbers(elements, keyword, 1)
    except PARSE_ERRORS:
        return math.nan
    return found[0] if found else math.nan
