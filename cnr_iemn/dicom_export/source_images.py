"""The images that DICOM output refers to: identifiers and geometry that it must repeat, read again and checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.config import disable_value_validation, strict_reading
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import PersonName, validate_value

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, suppress_library_messages
from cnr_iemn.ct.io.discovery import is_nifti, is_zip
from cnr_iemn.ct.io.folders import unpacked
from cnr_iemn.ct.io.reader import read_dicom, source_digest
from cnr_iemn.ct.io.slice_files import find_slices
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.ct.io.slice_order import ScanPlan, plan_scan
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.errors import CnrIemnError, RefusalCode, ScanError, fault
from cnr_iemn.read_options import ReadOptions

NO_DICOM = "No DICOM was written; the prediction is in predictions.json."
"""Ends a refusal that costs a scan its DICOM files and nothing else."""
_REMEDY = "Give the series as the scanner exported it, or leave dicom=true out; the prediction is in predictions.json."
_SEXES = ("", "M", "F", "O")


class _Element(NamedTuple):
    """An element that DICOM output repeats.

    ``required``: always, for a mask, or no. ``same``: one value in all images of a series. ``empty``: new objects must
    have it, but may leave it empty (type 2). ``several``: may have several values.
    """

    keyword: str
    required: Literal["always", "mask", "no"] = "no"
    same: bool = False
    empty: bool = False
    several: bool = False


_ELEMENTS = (
    _Element("StudyInstanceUID", required="always", same=True),
    _Element("SeriesInstanceUID", required="always", same=True),
    _Element("SOPInstanceUID", required="always"),
    _Element("SOPClassUID", required="always"),
    _Element("FrameOfReferenceUID", required="mask", same=True),
    _Element("PatientID", same=True),  # type 2, but a header without it is refused
    _Element("IssuerOfPatientID", same=True),
    _Element("PatientName", same=True, empty=True),
    _Element("PatientBirthDate", same=True, empty=True),
    _Element("PatientSex", same=True, empty=True),
    _Element("StudyID", same=True, empty=True),
    _Element("StudyDate", same=True, empty=True),
    _Element("StudyTime", same=True, empty=True),
    _Element("AccessionNumber", same=True, empty=True),
    _Element("ReferringPhysicianName", same=True, empty=True),
    _Element("ImagePositionPatient", required="mask", several=True),
    _Element("ImageOrientationPatient", required="mask", several=True),
    _Element("PixelSpacing", required="mask", several=True),
    _Element("Modality"),
    _Element("SamplesPerPixel"),
    _Element("Rows"),
    _Element("Columns"),
    _Element("SliceThickness"),
    _Element("LossyImageCompression"),
    _Element("LossyImageCompressionRatio", several=True),
    _Element("LossyImageCompressionMethod", several=True),
)
_TAGS: list[int | str] = [Tag(keyword) for keyword in ("SpecificCharacterSet", *(row.keyword for row in _ELEMENTS))]


@dataclass(frozen=True)
class SourceJob:
    """A scan with a prediction, to be read again. ``source_sha256``: of ``PreparedScan``."""

    scan_id: str
    path: Path
    source_sha256: str


@dataclass(frozen=True)
class DicomSource:
    """The images of a scan, head first.

    Attributes:
        images: A dataset for each, with checked identifiers and geometry alone; texts as Python strings.
        lungs: The lung mask at the images' resolution, bool [slices, rows, columns], or None.
    """

    images: tuple[Dataset, ...]
    lungs: NDArray[np.bool_] | None


@suppress_library_messages()
def read_source(job: SourceJob, *, options: ReadOptions, lungs: str | None) -> DicomSource:
    """Return the images of a scan for DICOM output. No message quotes a value of a header.

    Args:
        job: The scan.
        options: As it was read with.
        lungs: Method of the lung mask; None for no mask.

    Raises:
        ScanError: The scan is not DICOM, its files changed, or they lack what new objects in the patient's study need.
    """
    try:
        return _read(job, options, lungs)
    except (CnrIemnError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - one scan must not stop the others
        raise fault(job.scan_id, error, costs=NO_DICOM) from None


def _read(job: SourceJob, options: ReadOptions, lungs: str | None) -> DicomSource:
    scan_id = job.scan_id
    if is_nifti(job.path):
        raise ScanError(
            RefusalCode.DICOM_SOURCE,
            f"{scan_id}: a NIfTI file names no patient, study or series, which DICOM output must contain. Give the "
            "DICOM files, or leave dicom=true out; the prediction is in predictions.json.",
        )
    with _unpacked_folder(job) as folder:
        plan = plan_scan(scan_id, find_slices(folder, scan_id, options, numbered=True)[0], options)
        if any(header.pixels.enhanced for header in plan.slices):
            raise ScanError(
                RefusalCode.DICOM_SOURCE,
                f"{scan_id}: an enhanced multi-frame CT. DICOM output refers to images of one slice each, so it is "
                "not written. The prediction is in predictions.json.",
            )
        images = _read_images(job, plan)
        _check_images(scan_id, images, mask=lungs is not None)
        if lungs is None:
            return DicomSource(images, None)
        volume = read_dicom(folder, scan_id, options, numbered=True)
        if volume.source_sha256 != job.source_sha256:
            raise _changed(scan_id)
        mask = segment_lungs(volume.hu, volume.spacing_mm, method=lungs).mask
    if not mask.any():
        raise ScanError(
            RefusalCode.NO_LUNGS,
            f"{scan_id}: no lung was found, so there is no mask to write. Leave segmentation=true out.",
        )
    return DicomSource(images, mask)


@contextmanager
def _unpacked_folder(job: SourceJob) -> Iterator[Path]:
    if job.path.is_file() and is_zip(job.path):
        with unpacked(job.path, job.scan_id) as folder:
            yield folder
    else:
        yield job.path


def _read_images(job: SourceJob, plan: ScanPlan) -> tuple[Dataset, ...]:
    """Return the checked dataset of each slice; the files must be those of the prediction."""
    digests, images = set(), []
    for header in plan.slices:
        data = _read_bytes(job, header)
        digests.add(hashlib.sha256(data).digest())
        try:
            with strict_reading():  # otherwise an unknown character set is a warning, and names may be garbled
                image = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=_TAGS)
        except (*PARSE_ERRORS, LookupError) as error:
            raise _not_allowed(job.scan_id, "SpecificCharacterSet") from error
        images.append(_select_elements(job.scan_id, image))
    digests |= {hashlib.sha256(_read_bytes(job, header)).digest() for _, header in plan.copies}
    if source_digest(digests) != job.source_sha256:
        raise _changed(job.scan_id)
    return tuple(images)


def _read_bytes(job: SourceJob, header: SliceHeader) -> bytes:
    try:
        return header.path.read_bytes()
    except OSError as error:  # it existed when the scan was read first
        raise _changed(job.scan_id) from error


def _changed(scan_id: str) -> ScanError:
    return ScanError(
        RefusalCode.FILES_CHANGED,
        f"{scan_id}: its files changed after the prediction, so no DICOM was written. Run predict.py again.",
    )


def _select_elements(scan_id: str, image: Dataset) -> Dataset:
    """Return the elements of the table, decoded, with an empty value where new objects need one."""
    selection = Dataset()
    for element in _ELEMENTS:
        keyword, value = element.keyword, _value(scan_id, image, element)
        if element.empty or (keyword == "PatientID" and keyword in image):
            value = value or ""
        if value is not None:
            with disable_value_validation():  # _value has validated it
                setattr(selection, keyword, value)
    if selection.PatientSex not in _SEXES:
        raise _not_allowed(scan_id, "PatientSex")
    return selection


def _value(scan_id: str, image: Dataset, element: _Element) -> Any:
    """Return a value, text as a Python string, or None. Raises ScanError where DICOM does not allow it."""
    if element.keyword not in image:
        return None
    try:
        with strict_reading():  # validates numbers and UIDs; texts are validated below
            data = image[element.keyword]
            value = str(data.value) if isinstance(data.value, PersonName) else data.value
        if isinstance(value, MultiValue) and not element.several:
            raise ValueError(element.keyword)
        if isinstance(value, str):
            validate_value(data.VR, value, config.RAISE)
    except (*PARSE_ERRORS, LookupError) as error:
        raise _not_allowed(scan_id, element.keyword) from error
    return value


def _not_allowed(scan_id: str, keyword: str) -> ScanError:
    return ScanError(
        RefusalCode.DICOM_IDENTIFIERS,
        f"{scan_id}: {keyword} holds what DICOM does not allow there, and DICOM output must repeat it. Correct the "
        "header, or leave dicom=true out; the prediction is in predictions.json.",
    )


def _check_images(scan_id: str, images: tuple[Dataset, ...], *, mask: bool) -> None:
    """Refuse images that new objects in their study cannot refer to. ``mask``: one is placed on them."""
    for element in _ELEMENTS:
        missing = sum(not image.get(element.keyword) for image in images)
        if missing and (element.required == "always" or (mask and element.required == "mask")):
            raise ScanError(
                RefusalCode.DICOM_IDENTIFIERS,
                f"{scan_id}: {missing} of {len(images)} images lack {element.keyword} (anonymised?), which DICOM "
                f"output must contain. {_REMEDY}",
            )
    distinct = len({image.SOPInstanceUID for image in images})
    if distinct < len(images):
        raise ScanError(
            RefusalCode.DICOM_IDENTIFIERS,
            f"{scan_id}: {len(images)} images share {distinct} SOPInstanceUID(s) (anonymised?), so DICOM output cannot "
            f"refer to them. {_REMEDY}",
        )
    if any("PatientID" not in image for image in images):
        raise ScanError(
            RefusalCode.DICOM_IDENTIFIERS,
            f"{scan_id}: PatientID is not in the header (it may be empty, not absent). {_REMEDY}",
        )
    for element in _ELEMENTS:
        if element.same and len({image.get(element.keyword) for image in images}) > 1:
            raise ScanError(
                RefusalCode.DICOM_IDENTIFIERS,
                f"{scan_id}: {element.keyword} differs between its images, so it is not clear which patient or study "
                f"they belong to. {_REMEDY}",
            )
