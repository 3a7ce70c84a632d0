"""A list of scans: a text file with a path a line, or a CSV with the one column ``path``."""

import os
from pathlib import Path

from cnr_iemn.ct.io.discovery import scan_ids
from cnr_iemn.ct.io.image_stack import SUFFIXES, ImageStack, image_files
from cnr_iemn.data.csv_io import read_rows, read_text
from cnr_iemn.errors import CohortError
from cnr_iemn.utils.lookahead import map_ahead

_COLUMN = "path"


def is_path_list(path: Path) -> bool:
    """Tell whether a file is a list of paths: a .txt, or a .csv whose header is ``path``."""
    suffix = path.suffix.lower()
    if suffix == ".csv" and path.is_file():
        return read_text(path).partition("\n")[0].strip().strip('"').lower() == _COLUMN
    return suffix == ".txt" and path.is_file()


def read_paths(path: Path) -> list[tuple[str, Path | ImageStack]]:
    """Return id and source of each scan of a list, in its order; a path that comes again counts once.

    Each line is one scan: a DICOM folder, a zip of one, a NIfTI file, an image or a folder of nothing but images. What
    is missing is refused when it is read, as a scan, and stops no other.

    Args:
        path: The list, in UTF-8. A relative path in it starts at its folder. In a text file, empty lines and lines that
            begin with # are left out.

    Raises:
        CohortError: The file cannot be read or lists nothing.
    """
    if path.suffix.lower() == ".csv":
        lines = [row[_COLUMN] for _, row in read_rows(path, {_COLUMN}, set())]
    else:
        lines = [line.strip() for line in read_text(path).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise CohortError(f"{path} lists nothing. Write a path of a scan on each line.")
    folder = path.absolute().parent
    scans = list(dict.fromkeys(Path(os.path.normpath(folder / Path(line).expanduser())) for line in lines))
    ids = scan_ids(Path(os.path.commonpath(scans)), scans)
    return list(zip(ids, map_ahead(_source, zip(ids, scans, strict=True)), strict=True))


def _source(scan: tuple[str, Path]) -> Path | ImageStack:
    scan_id, path = scan
    if os.path.isdir(path):
        images, n_others = image_files(path)
        return ImageStack(scan_id, tuple(images)) if images and not n_others else path
    return ImageStack(scan_id, (path,)) if path.suffix.lower() in SUFFIXES and os.path.isfile(path) else path
