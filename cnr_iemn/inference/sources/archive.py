"""A zip of several scans, unpacked within limits."""

import zipfile
from pathlib import Path

from cnr_iemn.ct.io.discovery import find_scans, is_nifti
from cnr_iemn.ct.io.folders import UNPACKING_ERRORS, is_litter, unpack_zip
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.utils.sandbox import run_limited

MAX_FILES = 1_000_000
MAX_BYTES = 2**38
"""Of all scans together, unpacked; the disk keeps ``folders.LEFT_FREE``."""
SECONDS = 4 * 3600.0
"""To unpack it."""
_NAME = "zip"


def unpack_scans(path: Path, folder: Path) -> Path | None:
    """Unpack a zip that holds several scans, in a limited process.

    Args:
        path: The zip.
        folder: An empty folder of the caller.

    Returns:
        The folder with the scans. None where the zip holds one scan, as one folder of it or none tells, or cannot be
        unpacked: its reader then takes it, or refuses it by name.
    """
    target = folder / _NAME
    (answer,) = (result for _, result in run_limited(_unpack, [(path, target)], workers=1, seconds=SECONDS))
    if isinstance(answer, ScanError) or not answer:
        return None
    try:
        return target if len(find_scans(target, workers=1)) > 1 else None
    except CohortError:
        return None


def _unpack(job: tuple[Path, Path]) -> bool:
    """Unpack the zip where it may hold several scans. Tells whether it may."""
    path, target = job
    if not _may_hold_several(path):
        return False
    target.mkdir()
    unpack_zip(path, target, _NAME, max_files=MAX_FILES, max_bytes=MAX_BYTES)
    return True


def _may_hold_several(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(entry.filename.replace("\\", "/")) for entry in archive.infolist() if not entry.is_dir()]
    except UNPACKING_ERRORS:
        return False
    files = [name for name in names if not is_litter(name)]
    return len({name.parent for name in files}) > 1 or sum(map(is_nifti, files)) > 1
