"""Whose images a scan's are: the identifiers that DICOM output must carry, read again and checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.config import disable_value_validation, strict_reading
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import PersonName, validate_value

from cnr_iemn.ct.archive import unpacked
from cnr_iemn.ct.elements import PARSE_ERRORS
from cnr_iemn.ct.find import find_slices, is_nifti, is_zip
from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.plan import ScanPlan, plan_scan
from cnr_iemn.ct.quiet import unheard
from cnr_iemn.ct.reader import read_dicom, source_digest
from cnr_iemn.errors import CnrIemnError, ScanError, fault
from cnr_iemn.permissions import Permissions

NO_DICOM = "No DICOM was written; the answer itself is in predictions.json."
"""How a refusal ends that costs a scan its DICOM files and nothing else."""

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_OF_ALL = (  # of patient and study: the same in all images of a series, and what new objects of that study repeat
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
_TYPE_2 = (  # of those, what an object must have and may leave empty; PatientID too, but where it is absent we refuse
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_OF_ONE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_OF_SEVERAL_PARTS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_TAGS: list[int | str] = [Tag(keyword) for keyword in ("SpecificCharacterSet", *_OF_ALL, *_OF_ONE)]
_SEXES = ("", "M", "F", "O")
_GO_ON = (
    "Give the series as the scanner exported it, or leave dicom=true out; the answer itself is in predictions.json."
)


@dataclass(frozen=True)
class SourceJob:
    """A scan that has been answered, to be read again. ``source_sha256``: of ``PreparedScan``."""

    scan_id: str
    path: Path
    source_sha256: str


@dataclass(frozen=True)
class DicomSource:
    """The images of one scan, head first.

    ``images``: of each a dataset of identifiers and geometry alone, every value checked, texts as Python has them.
    ``lungs``: bool [slices, rows, columns] at the images' own resolution, None where it was not asked for.
    """

    images: tuple[Dataset, ...]
    lungs: NDArray[np.bool_] | None


@unheard()
def read_source(job: SourceJob, *, allowed: Permissions, lungs: str | None) -> DicomSource:
    """Return the images of a scan as DICOM output refers to them. ``lungs``: method of the mask, None for no mask.

    Raises ScanError where the scan is not DICOM, has other bytes than those that were answered, or lacks what new
    objects in the patient's study need; where the program fails on it too. No message holds a header's value.
    """
    try:
        return _read(job, allowed, lungs)
    except (CnrIemnError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the answers to this scan and to all others are still to be written
        raise fault(job.scan_id, error, costs=NO_DICOM) from None


def _read(job: SourceJob, allowed: Permissions, lungs: str | None) -> DicomSource:
    scan = job.scan_id
    if is_nifti(job.path):
        raise ScanError(
            f"{scan}: a NIfTI file names no patient, study or series, which DICOM output must carry. Give the DICOM "
            "files, or leave dicom=true out; the answer itself is in predictions.json."
        )
    with _folder(job) as folder:
        plan = plan_scan(scan, find_slices(folder, scan, allowed, numbered=True)[0], allowed)
        if any(header.pixels.enhanced for header in plan.slices):
            raise ScanError(
                f"{scan}: an enhanced multi-frame CT. DICOM output refers to images of one slice each, and frames "
                "are not written. The answer itself is in predictions.json."
            )
        images = _images(job, plan)
        _check(scan, images, geometry=lungs is not None)
        if lungs is None:
            return DicomSource(images, None)
        volume = read_dicom(folder, scan, allowed, numbered=True)
        if volume.source_sha256 != job.source_sha256:
            raise _changed(scan)
        mask = segment_lungs(volume.hu, volume.spacing_mm, method=lungs).mask
    if not mask.any():
        raise ScanError(f"{scan}: no lung was found, so there is no mask to write. Leave segmentation=true out.")
    return DicomSource(images, mask)


@contextmanager
def _folder(job: SourceJob) -> Iterator[Path]:
    if job.path.is_file() and is_zip(job.path):
        with unpacked(job.path, job.scan_id) as folder:
            yield folder
    else:
        yield job.path


def _images(job: SourceJob, plan: ScanPlan) -> tuple[Dataset, ...]:
    """Return the checked dataset of each slice; the files must be those that were answered."""
    digests, images = set(), []
    for header in plan.slices:
        data = _bytes(job, header)
        digests.add(hashlib.sha256(data).digest())
        try:
            with strict_reading():  # or a character set that is none would be a warning, and names be taken for others
                image = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=_TAGS)
        except (*PARSE_ERRORS, LookupError) as error:
            raise _not_allowed(job.scan_id, "SpecificCharacterSet") from error
        images.append(_checked(job.scan_id, image))
    digests |= {hashlib.sha256(_bytes(job, header)).digest() for _, header in plan.copies}
    if source_digest(digests) != job.source_sha256:
        raise _changed(job.scan_id)
    return tuple(images)


def _bytes(job: SourceJob, header: SliceHeader) -> bytes:
    try:
        return header.path.read_bytes()
    except OSError as error:  # it was there when the scan was answered
        raise _changed(job.scan_id) from error


def _changed(scan: str) -> ScanError:
    return ScanError(
        f"{scan}: its files changed after they were answered, so no DICOM was written. Run predict.py again."
    )


def _checked(scan: str, image: Dataset) -> Dataset:
    """Return the wanted elements alone, decoded; what a new object must have, empty where it is missing."""
    found = Dataset()
    for keyword in (*_OF_ALL, *_OF_ONE):
        value = _value(scan, image, keyword)
        if keyword in _TYPE_2 or (keyword == "PatientID" and keyword in image):
            value = value or ""
        if value is not None:
            with disable_value_validation():  # it has just been done
                setattr(found, keyword, value)
    if found.PatientSex not in _SEXES:
        raise _not_allowed(scan, "PatientSex")
    return found


def _value(scan: str, image: Dataset, keyword: str) -> Any:
    """Return the value of one element, text as Python has it; None where it is missing.

    Raises ScanError where it is none of its value representation, or has several parts where there may be one.
    """
    if keyword not in image:
        return None
    try:
        with strict_reading():  # numbers and UIDs are checked as they are converted, texts below
            element = image[keyword]
            value = str(element.value) if isinstance(element.value, PersonName) else element.value
        if keyword not in _OF_SEVERAL_PARTS and isinstance(value, MultiValue):
            raise ValueError(keyword)
        if isinstance(value, str):
            validate_value(element.VR, value, config.RAISE)
    except (*PARSE_ERRORS, LookupError) as error:
        raise _not_allowed(scan, keyword) from error
    return value


def _not_allowed(scan: str, keyword: str) -> ScanError:
    return ScanError(
        f"{scan}: {keyword} holds what DICOM does not allow there, and DICOM output must repeat it. Mend the header, "
        "or leave dicom=true out; the answer itself is in predictions.json."
    )


def _check(scan: str, images: tuple[Dataset, ...], *, geometry: bool) -> None:
    """Refuse images that a new object in their study cannot name. ``geometry``: whether a mask must lie on them."""
    for keyword in (*_UIDS, "SOPClassUID", *(("FrameOfReferenceUID",) if geometry else ())):
        values = [image.get(keyword) for image in images]
        if not all(values):
            lack = sum(not value for value in values)
            raise ScanError(
                f"{scan}: {lack} of {len(images)} images lack {keyword} (anonymised?), which DICOM output must carry. "
                f"{_GO_ON}"
            )
    distinct = len({image.SOPInstanceUID for image in images})
    if distinct < len(images):
        raise ScanError(
            f"{scan}: {len(images)} images share {distinct} SOPInstanceUID(s) (anonymised?), so that none can be "
            f"referred to. {_GO_ON}"
        )
    if any("PatientID" not in image for image in images):
        raise ScanError(f"{scan}: PatientID is not in the header (it may be empty, not absent). {_GO_ON}")
    for keyword in _OF_ALL:
        if len({image.get(keyword) for image in images}) > 1:
            raise ScanError(
                f"{scan}: {keyword} differs between its images, so that it is not clear whose they are. {_GO_ON}"
            )
    if geometry:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not all(image.get(keyword) for image in images):
                raise ScanError(f"{scan}: a mask cannot be laid on images without {keyword}. {_GO_ON}")
