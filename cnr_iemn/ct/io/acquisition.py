"""How a scan was taken, as numbers and opaque codes: what must not tell its class, and what tells passes apart.

No free text of a DICOM file leaves this module: it can hold names. A code tells only whether two scans have the same.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, Elements

_COMMON_KERNELS = re.compile(
    r"[BDHIJQSTU][flnprv]?\d\d[adfhlmps]?(/\d)?"  # Siemens: B70f, Br40d, I31f/3
    r"|FC\d\d"  # Canon
    r"|BONE|BONEPLUS|CHST|DETAIL|EDGE|LUNG|SOFT|STANDARD|STND|ULTRA"  # GE
    r"|[A-F]|L|Y[A-D]"  # Philips
)
ABSENT = "absent"
"""Code of a DICOM file that does not say."""
KEYWORDS = (
    *("Manufacturer", "ManufacturerModelName", "KVP", "SliceThickness", "XRayTubeCurrent", "AcquisitionTime"),
    *("TableHeight", "TriggerTime", "NominalPercentageOfCardiacPhase", "TemporalPositionIdentifier"),
    *("TemporalPositionIndex", "ContrastBolusAgent", "FrameOfReferenceUID", "PatientID", "RescaleType"),
)
"""Elements that are read here and nowhere else."""
_NO_SLICES = frozenset(
    (
        *("MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "PROJECTION IMAGE", "VOLUME_RENDER"),
        *("SURFACE_RENDER", "VRT", "SSD", "CURVED_MPR", "SUBTRACTION", "DIVISION", "MULTIPLICATION"),
        *("STD_DEVIATION", "QUANTITY", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_SPECIFIC", "MAT_FRACTIONAL"),
        *("MAT_VALUE_BASED", "SCREEN SAVE", "DOSE_INFO"),
    )
)
"""Terms of ImageType (PS3.3, C.7.6.1.1.2, C.8.15.3.9, C.8.16.1) whose images hold no HU of one slice each."""
_COMPUTED = frozenset(
    (
        *("DERIVED", "SECONDARY", "MPR", "REFORMATTED", "RESAMPLED", "AVERAGE", "MEAN", "MEDIAN", "ADDITION"),
        *("FILTERED", "MASKED", "VMI", "ENERGY_PROP_WT", "MAT_REMOVED"),
    )
)
_OTHER_UNITS = frozenset(["OD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "HU_MOD"])  # PS3.3, C.11.1.1.2


@dataclass(frozen=True)
class Acquisition:
    """How a scan or slice was taken and stored.

    A number is NaN and a code None where there is no DICOM file; where the file does not say, they are NaN and ABSENT.

    Attributes:
        kernel, manufacturer, model: See ``code_of``.
        transfer_syntax: DICOM's own UID.
        kvp: In kV.
        header_bytes: Of a file before its pixels; how well these compress shows the lungs, too, and is left out.
        field_of_view_mm: Columns times their spacing.
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


@dataclass(frozen=True)
class PassAttributes:
    """What tells the passes, phases and reconstructions of one series apart; None where a slice's header does not say.

    Attributes:
        time: AcquisitionTime as the number HHMMSS.F, to sort by.
        table_mm: TableHeight.
        phase: Percent of the heart's cycle.
        temporal: Index of the time point.
        contrast, frame, patient: Codes of agent, frame of reference and patient, see ``code_of``.
        projection: A term of ImageType whose images are no slices, '' for none.
        computed: Terms of ImageType of slices computed from others.
        unit: RescaleType where it is not HU, else ''.
    """

    time: float | None
    table_mm: float | None
    trigger_ms: float | None
    phase: float | None
    temporal: float | None
    contrast: str
    frame: str
    patient: str
    projection: str
    computed: tuple[str, ...]
    unit: str


def slice_acquisition(
    elements: Elements, *, transfer_syntax: str, bits_stored: int | None, header_bytes: int | None, enhanced: bool
) -> Acquisition:
    """Return what one slice's header says. A damaged element counts as missing: no pixel depends on it.

    ``header_bytes``: before the pixels, None where it is not known. ``enhanced``: a frame of a multi-frame file.
    """
    current = "XRayTubeCurrentInmA" if enhanced else "XRayTubeCurrent"
    numbers = (
        *(_number(elements, keyword) for keyword in ("KVP", "SliceThickness", current)),
        bits_stored,
        header_bytes,
    )
    return Acquisition(
        _code(elements, "ConvolutionKernel"),
        _code(elements, "Manufacturer"),
        _code(elements, "ManufacturerModelName"),
        transfer_syntax,
        *(math.nan if number is None else float(number) for number in numbers),
    )


def pass_attributes(elements: Elements) -> PassAttributes:
    """Return what one slice's header says. A damaged element counts as missing."""
    kinds = {text.strip().upper() for text in _texts(elements, "ImageType")}
    units = {text.strip().upper() for text in _texts(elements, "RescaleType")}
    temporal = _number(elements, "TemporalPositionIdentifier")
    return PassAttributes(
        time=_number(elements, "AcquisitionTime"),
        table_mm=_number(elements, "TableHeight"),
        trigger_ms=_number(elements, "TriggerTime"),
        phase=_number(elements, "NominalPercentageOfCardiacPhase"),
        temporal=_number(elements, "TemporalPositionIndex") if temporal is None else temporal,
        contrast=_code(elements, "ContrastBolusAgent"),
        frame=_code(elements, "FrameOfReferenceUID"),
        patient=_code(elements, "PatientID"),
        projection=min(kinds & _NO_SLICES, default=""),
        computed=tuple(sorted(kinds & _COMPUTED)),
        unit=min(units & _OTHER_UNITS, default=""),
    )


def typical(slices: Sequence[Acquisition]) -> Acquisition:
    """Return the most frequent code and the median of each number over the slices of a scan, of which there is one."""
    values: dict[str, Any] = {}
    for name in CODES:
        values[name] = Counter(getattr(header, name) for header in slices).most_common(1)[0][0]
    for name in NUMBERS:
        numbers = [number for header in slices if not math.isnan(number := getattr(header, name))]
        values[name] = float(np.median(numbers)) if numbers else math.nan
    return Acquisition(**values)


def computation_findings(slices: Iterable[PassAttributes]) -> list[str]:
    """Return what is to be known of the values of a scan's slices."""
    slices = list(slices)
    findings = []
    terms = sorted({term for attributes in slices for term in attributes.computed})
    if terms:
        count = sum(bool(attributes.computed) for attributes in slices)
        findings.append(f"{count} slice(s) computed from other images (ImageType {', '.join(terms)})")
    units = sorted({attributes.unit for attributes in slices} - {""})
    if units:
        findings.append(f"RescaleType is {', '.join(units)}, not HU; the values are taken as HU")
    return findings


@lru_cache(maxsize=1024)
def code_of(text: str) -> str:
    """Return 8 hexadecimal digits that stand for a text, whatever its case and spaces; ABSENT for an empty one."""
    plain = " ".join(text.split()).casefold()
    return hashlib.sha256(plain.encode()).hexdigest()[:8] if plain else ABSENT


def kernel_label(kernel: str) -> str:
    """Return what messages call a kernel: its name where that is a common one, else its code."""
    return kernel if _COMMON_KERNELS.fullmatch(kernel) else code_of(kernel)


def _code(elements: Elements, keyword: str) -> str:
    return code_of("/".join(_texts(elements, keyword)))


def _texts(elements: Elements, keyword: str) -> tuple[str, ...]:
    try:
        return elements.texts(keyword)
    except PARSE_ERRORS:
        return ()


def _number(elements: Elements, keyword: str) -> float | None:
    try:
        return elements.number(keyword)
    except PARSE_ERRORS:
        return None
