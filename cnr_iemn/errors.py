"""Errors a user can mend. Each message says what was given, why it cannot work and what to do.

The entry points print the message without a traceback and exit with code 2 (see ``config.entry_point``). Whatever
else is raised is a fault of the program and keeps its traceback.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from traceback import extract_tb


class CnrIemnError(Exception):
    """Base of all errors that a user can mend."""


class ConfigurationError(CnrIemnError):
    """A setting, or two settings together, cannot work."""


class RefusalCode(StrEnum):
    """Why a scan is refused, for programs: docs/reference/refusals.md. A code keeps its text and its meaning."""

    # files and folders
    NOT_FOUND = "not-found"
    NO_ACCESS = "no-access"
    TOO_DEEP = "too-deep"
    TOO_LARGE = "too-large"
    NO_CT_IMAGE = "no-ct-image"
    DAMAGED_FILE = "damaged-file"
    DAMAGED_ZIP = "damaged-zip"
    UNSAFE_ZIP = "unsafe-zip"
    FILES_CHANGED = "files-changed"
    # headers and the choice of slices
    DAMAGED_HEADER = "damaged-header"
    MISSING_GEOMETRY = "missing-geometry"
    MISSING_RESCALE = "missing-rescale"
    RESCALE_MISMATCH = "rescale-mismatch"
    LOCALIZERS_ONLY = "localizers-only"
    DERIVED_IMAGES = "derived-images"
    NO_MATCH = "no-match"
    NOT_AXIAL = "not-axial"
    SEVERAL_STACKS = "several-stacks"
    SPLIT_SCAN = "split-scan"
    SEVERAL_PASSES = "several-passes"
    SAME_POSITION = "same-position"
    MISSING_SLICES = "missing-slices"
    # pixels
    PIXEL_FORMAT = "pixel-format"
    TRANSFER_SYNTAX = "transfer-syntax"
    DAMAGED_PIXELS = "damaged-pixels"
    RANGE_MISMATCH = "range-mismatch"
    NOT_HU = "not-hu"
    # NIfTI
    DAMAGED_NIFTI = "damaged-nifti"
    OTHER_FORMAT = "other-format"
    SEVERAL_VOLUMES = "several-volumes"
    NO_ORIENTATION = "no-orientation"
    VOXEL_SIZE = "voxel-size"
    # images
    DAMAGED_IMAGE = "damaged-image"
    IMAGE_SIZE = "image-size"
    COLOUR_IMAGE = "colour-image"
    NO_CONTENT = "no-content"
    PIXEL_TYPE = "pixel-type"
    # limits and faults
    MEMORY_LIMIT = "memory-limit"
    TIME_LIMIT = "time-limit"
    DECODER_CRASH = "decoder-crash"
    PROGRAM_FAULT = "program-fault"
    # predict.py
    PIXEL_VALUES = "pixel-values"
    TOO_FEW_SLICES = "too-few-slices"
    NO_LUNGS = "no-lungs"
    # DICOM output
    DICOM_SOURCE = "dicom-source"
    DICOM_IDENTIFIERS = "dicom-identifiers"


class ScanError(CnrIemnError):
    """One scan cannot be read safely, so it is refused.

    Args:
        code: Why, for programs.
        reason: Why, for people: begins with the scan's or the file's name.
    """

    def __init__(self, code: RefusalCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def reasons(refusals: Mapping[str, ScanError]) -> dict[str, str]:
    """Return the reasons of refusals, by scan."""
    return {scan_id: str(error) for scan_id, error in refusals.items()}


class InputError(CnrIemnError):
    """Every scan of an input was refused.

    Args:
        reason: Which scans, and why.
        codes: Why, for programs: of all scans, each once.
    """

    def __init__(self, reason: str, codes: Sequence[RefusalCode]) -> None:
        super().__init__(reason, codes)
        self.reason = reason
        self.codes = tuple(codes)

    def __str__(self) -> str:
        return self.reason


class CohortError(CnrIemnError):
    """The folder, labels or split of a cohort are missing or contradict each other."""


class StoreError(CnrIemnError):
    """The slice store is damaged, incomplete or not the one that was asked for."""


class RunError(CnrIemnError):
    """A run, its predictions or an ensemble is missing, unfinished or does not fit the others."""


class TrainingError(CnrIemnError):
    """A network cannot be trained on: its loss is no number, or the memory does not hold it."""


class WeightsError(CnrIemnError):
    """Start weights cannot be loaded."""


class PartialFailureError(CnrIemnError):
    """Some scans failed, each named with its reason, and the others are finished: exit code 1."""


class JobError(CnrIemnError):
    """A job of a multirun failed, or all of them; the message gives the reason."""


class Termination(KeyboardInterrupt):
    """The process was told to end by a signal: whatever ends in order at Ctrl-C does so here.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell says of a command that the signal has ended: 143 for SIGTERM."""
        return 128 + self.number


def own_words(error: CnrIemnError) -> str:
    """Return an error's message; torch puts that of a process which loads data at the end of its traceback."""
    text = str(error)
    if not text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return text
    return text.rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()


REFUSED = "Scan refused; other scans continue."


def fault(scan: str, error: Exception, *, costs: str = REFUSED) -> ScanError:
    """Return the refusal of a scan on which the program itself failed, so that it does not stop the others.

    Type and place of the error alone: its own words may quote the scan. ``costs``: what is lost by it.
    """
    last = extract_tb(error.__traceback__)[-1]
    return ScanError(
        RefusalCode.PROGRAM_FAULT,
        f"{scan}: the program failed on it ({type(error).__name__} in {Path(last.filename).name}, line {last.lineno}). "
        f"{costs} Please report this fault.",
    )
