"""Patient and scanner of a scan from its DICOM headers, in groups. No name, id, date or UID is read here."""

from collections.abc import Callable
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.tag import Tag

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, Elements, read_elements, suppress_library_messages
from cnr_iemn.ct.io.discovery import is_nifti, is_zip, scan_name
from cnr_iemn.ct.io.folders import unpacked
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.ct.io.slice_files import find_slices
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.ct.io.slice_order import plan_scan
from cnr_iemn.data.demographics.groups import Contrast, HeaderGroups, age_string_band, sex_of
from cnr_iemn.data.demographics.scanner_names import kernel_class, manufacturer_name, model_family
from cnr_iemn.read_options import STRICT, ReadOptions

_AGENT, _AGENTS = "ContrastBolusAgent", "ContrastBolusAgentSequence"  # of single slices, and of enhanced CT
KEYWORDS = ("PatientSex", "PatientAge", "Manufacturer", "ManufacturerModelName", _AGENT, _AGENTS)
_TAGS: list[int | str] = [Tag(keyword) for keyword in KEYWORDS]
_NO_CONTRAST = frozenset(("NO", "NONE", "NATIVE", "WITHOUT", "NO CONTRAST"))


@suppress_library_messages()
def read_header_groups(source: Path | ImageStack, options: ReadOptions = STRICT) -> HeaderGroups:
    """Return the groups of a scan; images and NIfTI files have none.

    The first, the middle and the last slice are read. A value counts where they agree.

    Args:
        source: The scan, as ``prepare_scan`` takes it.
        options: With which the scan was prepared, so that the same series is chosen.

    Raises:
        ScanError: The scan cannot be read.
    """
    if isinstance(source, ImageStack) or (source.is_file() and is_nifti(source)):
        return HeaderGroups()
    name = scan_name(source)
    if source.is_file() and is_zip(source):
        with unpacked(source, name) as folder:
            return _groups(folder, name, options)
    return _groups(source, name, options)


def _groups(folder: Path, name: str, options: ReadOptions) -> HeaderGroups:
    headers, _ = find_slices(folder, name, options)
    slices = plan_scan(name, headers, options).slices
    sample = (slices[0], slices[len(slices) // 2], slices[-1])
    groups = {_slice_groups(header) for header in sample}
    values = {field: {getattr(group, field) for group in groups} for field in HeaderGroups.__dataclass_fields__}
    return HeaderGroups(**{field: distinct.pop() for field, distinct in values.items() if len(distinct) == 1})


def _slice_groups(header: SliceHeader) -> HeaderGroups:
    with disable_value_validation():
        elements = Elements(read_elements(header.path, header.name, _TAGS)[0])
        manufacturer = manufacturer_name(_text(elements, "Manufacturer"))
        return HeaderGroups(
            sex=sex_of(_text(elements, "PatientSex")),
            age=age_string_band(_text(elements, "PatientAge")),
            manufacturer=manufacturer,
            model_family=model_family(manufacturer or "", _text(elements, "ManufacturerModelName")),
            kernel=kernel_class(header.kernel),
            contrast=_contrast(elements),
        )


def _contrast(elements: Elements) -> Contrast | None:
    """Return whether an agent is stated; an empty element says nothing."""
    agent = _text(elements, _AGENT).strip().upper()
    if agent:
        return "no" if agent in _NO_CONTRAST else "yes"
    return "yes" if _read(elements.get, _AGENTS) else None


def _text(elements: Elements, keyword: str) -> str:
    return str(_read(elements.text, keyword) or "")


def _read(read: Callable[[str], object], keyword: str) -> object:
    """Return what an element holds, None where it is damaged: no pixel depends on it."""
    try:
        return read(keyword)
    except PARSE_ERRORS:
        return None
