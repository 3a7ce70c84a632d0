"""The files below a folder, in an order that people expect."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IFLNK, S_IFMT, S_IFREG

MAX_DEPTH = 8
"""Folders below folders; deeper trees are refused."""


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts P2 before P10, ignoring case."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", text) if part
    ]


def folders_with_files(root: Path, refuse: Callable[[Path, str], object]) -> Iterator[tuple[Path, list[Path], int]]:
    """Give each folder from ``root`` down with its regular files, in natural order, and how many links it holds.

    Links are not followed. ``refuse`` is given a folder that cannot be listed, whose files cannot be reached or that
    lies deeper than MAX_DEPTH, and why; where it returns, the folder is passed over with all below it.
    """

    def lost(error: OSError) -> None:
        refuse(Path(error.filename), f"cannot be listed ({error.strerror}). Check the disk and the permissions.")

    for parent, names, files in os.walk(root, onerror=lost):
        folder = Path(parent)
        if len(folder.relative_to(root).parts) > MAX_DEPTH:
            names.clear()
            refuse(folder, f"more than {MAX_DEPTH} folders deep. Name a folder nearer to the scans.")
            continue
        names.sort(key=natural_key)
        try:
            kinds = {path: _kind(path) for path in (folder / name for name in sorted(files, key=natural_key))}
        except OSError as error:  # a folder that may be listed, but not entered
            names.clear()
            refuse(folder, f"its files cannot be reached ({error.strerror}). Check the disk and the permissions.")
            continue
        links = [*kinds.values()].count(S_IFLNK) + sum(_is_link(folder / name) for name in names)
        yield folder, [path for path, kind in kinds.items() if kind == S_IFREG], links


def _is_link(path: Path) -> bool:
    """Tell whether this is a link; one that cannot be told is met, and refused, as a folder of its own."""
    try:
        return _kind(path) == S_IFLNK
    except OSError:
        return False


def _kind(path: Path) -> int:
    """Return what kind of file this is, as ``stat`` names it; 0 where it was taken away meanwhile."""
    try:
        return S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return 0
