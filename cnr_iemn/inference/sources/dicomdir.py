"""The scans that a DICOMDIR lists, as one folder of links for each series of CT."""

import warnings
from collections import defaultdict
from pathlib import Path

import pydicom
from pydicom.fileset import FileSet
from pydicom.uid import UID

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, suppress_library_messages
from cnr_iemn.ct.io.slice_header import CT_CLASSES
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.utils.sandbox import run_limited
from cnr_iemn.utils.text import visible

MAX_BYTES = 2**28
"""Of a DICOMDIR; one of 10^5 images has 50 MB."""


def is_dicomdir(path: Path) -> bool:
    """Tell whether the file is named like a DICOMDIR."""
    return path.name.upper() == "DICOMDIR" and path.is_file()


def link_series(path: Path, folder: Path, *, label: str | None = None) -> None:
    """Make a folder with links to its files for each series of CT that a DICOMDIR lists: series-1 and so on.

    No text of a header becomes a name. Each series is a scan; the reader refuses localizers by name.

    Args:
        path: The DICOMDIR, which is read in a limited process.
        folder: Where the folders are made.
        label: What messages call it in place of its path.

    Raises:
        CohortError: It is damaged, names a file that is missing or lies outside its folder, or lists no CT.
    """
    label = label or visible(str(path))
    ((_, answer),) = run_limited(read_series, [path], workers=1)
    if isinstance(answer, ScanError):
        raise CohortError(f"{label}: {answer} Give the folder that holds its files.")
    if not answer:
        raise CohortError(f"{label} lists no CT. Give the folder that holds the scans.")
    for number, files in enumerate(answer, start=1):
        series = folder / f"series-{number}"
        series.mkdir()
        for k, file in enumerate(files):
            (series / f"{k:05d}-{file.name}").symlink_to(file)


@suppress_library_messages()
def read_series(path: Path) -> list[list[Path]]:
    """Return the files of each series with CT images, in the order of the DICOMDIR.

    Raises:
        CohortError: As ``link_series``.
    """
    name = "the DICOMDIR"
    if path.stat().st_size > MAX_BYTES:
        raise CohortError(f"{name} has more than {MAX_BYTES:,} bytes. Give the folder that holds its files.")
    try:
        directory = pydicom.dcmread(path)
        listed = sum(record.get("ReferencedFileID") is not None for record in directory.DirectoryRecordSequence)
        with warnings.catch_warnings(action="ignore"):
            file_set = FileSet()
            file_set.load(directory, include_orphans=False)
        instances = list(file_set)
        series: dict[str, list[Path]] = defaultdict(list)
        for instance in instances:
            if UID(instance.ReferencedSOPClassUIDInFile).keyword in CT_CLASSES:
                series[instance.SeriesInstanceUID].append(Path(instance.path))
    except PermissionError:  # pydicom's word for a path that leads outside
        raise CohortError(f"{name} names a file outside its folder. Give the folder that holds its files.") from None
    except (*PARSE_ERRORS, LookupError, OSError, RecursionError) as error:
        raise CohortError(
            f"{name} is damaged ({type(error).__name__}). Copy the medium again, or give the folder of its files."
        ) from None
    if len(instances) < listed:
        raise CohortError(
            f"{name} lists {listed:,} files, of which {listed - len(instances):,} are missing or belong to no series: "
            "a slice may be among them. Copy the medium again, or give the folder that holds its files."
        )
    return list(series.values())
