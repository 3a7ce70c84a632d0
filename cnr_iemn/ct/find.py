"""Which files below a folder belong to a CT scan, and which do not."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cnr_iemn.ct.headers import CT_IMAGE, ENHANCED_CT, SliceHeader, UnreadableFileError, read_header
from cnr_iemn.errors import ScanError

MAX_DEPTH = 8
"""Folders below folders; deeper trees are refused."""


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts P2 before P10, ignoring case."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", text) if part
    ]


def scan_name(path: Path) -> str:
    """Return the name of a scan's folder, which is the scan's id."""
    return Path(os.path.abspath(path)).name


def folders_with_files(root: Path) -> Iterator[tuple[Path, list[Path], int]]:
    """Give each folder from ``root`` down with its regular files, in natural order, and how many links it holds.

    Links are not followed. Raises ScanError where a folder cannot be listed or lies deeper than MAX_DEPTH.
    """

    def refuse(error: OSError) -> None:
        raise ScanError(f"{error.filename}: cannot be listed ({error.strerror}). Check the disk and the permissions.")

    for parent, names, files in os.walk(root, onerror=refuse):
        folder = Path(parent)
        if len(folder.relative_to(root).parts) > MAX_DEPTH:
            raise ScanError(f"{folder}: more than {MAX_DEPTH} folders below {root}. Name a folder nearer to the scans.")
        names.sort(key=natural_key)
        paths = [folder / name for name in sorted(files, key=natural_key)]
        regular = [path for path in paths if path.is_file() and not path.is_symlink()]
        links = sum(path.is_symlink() for path in paths) + sum((folder / name).is_symlink() for name in names)
        yield folder, regular, links


def find_slices(root: Path) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Return the headers of all CT images below one scan's folder, and findings on what was left out.

    Litter and other DICOM objects are counted, never fatal. A damaged file that may be a slice is: a lost slice at the
    end of a scan leaves no gap, and every label would shift. Raises ScanError.
    """
    scan = scan_name(root)
    if not root.is_dir():
        raise ScanError(f"{scan}: {root} is not a folder. Give the folder that holds the scan's DICOM files.")
    slices: list[SliceHeader] = []
    others: Counter[str] = Counter()
    unreadable: list[tuple[Path, str]] = []
    for _, files, links in folders_with_files(root):
        others["link"] += links
        for path in files:
            try:
                header = read_header(path, f"{scan}/{path.relative_to(root).as_posix()}")
            except UnreadableFileError as error:
                unreadable.append((path, str(error)))
                continue
            if header.sop_class == CT_IMAGE:
                slices.append(header)
            else:
                others[header.sop_class or "unknown DICOM object"] += 1
    suffixes = {file_kind(header.path) for header in slices}
    for path, reason in unreadable:
        if file_kind(path) in suffixes and not is_litter(path):
            raise ScanError(
                f"{reason} It lies among the slices; were it one of them, every label after it would shift. Copy the "
                "scan again, or remove the file if it is no slice."
            )
        others["file that is no DICOM"] += 1
    ignored = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()) if count)
    if not slices:
        hint = " Enhanced multi-frame CT is not read: export it as single-frame CT images." if _enhanced(others) else ""
        raise ScanError(f"{scan}: no CT image below {root} ({'found ' + ignored if ignored else 'it is empty'}).{hint}")
    return slices, (f"ignored: {ignored}",) if ignored else ()


def _enhanced(kinds: Counter[str]) -> bool:
    return any(kinds[kind] for kind in ENHANCED_CT)


def file_kind(path: Path) -> str:
    """Return the suffix in lower case; '' for none, and for digits, which end a file named by its UID."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdecimal() else suffix


def is_litter(path: Path) -> bool:
    """Tell whether the name is one that operating systems and archives leave behind."""
    return path.name.startswith(".") or path.name.lower() in {"dicomdir", "lockfile", "version", "readme", "license"}
