"""What the files of a scan are, so that a change of them shows: without reading them, or by their content."""

import hashlib
import json
import os
from pathlib import Path

from cnr_iemn.ct.io.folders import folders_with_files
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.utils.atomic_io import sha256_of_file


def source_signature(source: Path | ImageStack, *, names: bool = True) -> str:
    """Return a hash over name, size and modification time of a scan's files, without reading them.

    For images it covers the manifest's pixel values, offset and spacing, too. ``names``: without them, nobody can tell
    from the hash how files and folders are called.
    """
    if isinstance(source, ImageStack):
        reading: tuple[object, ...] = (source.values, source.offset, source.spacing_mm)
        entries = [(str(path) if names else "", *_size_and_time(path)) for path in source.files]  # in their order
        return hashlib.sha256(json.dumps([reading, entries]).encode()).hexdigest()
    place = str(source.resolve()) if names else ""
    if os.path.isfile(source):
        return hashlib.sha256(json.dumps([place, *_size_and_time(source)]).encode()).hexdigest()
    entries = []
    for folder, files, _ in folders_with_files(source, lambda *_: None):  # reading refuses a folder out of reach
        below = "" if folder == source else f"{folder.relative_to(source)}{os.sep}"
        entries += [(f"{below}{path.name}" if names else "", *_size_and_time(path)) for path in files]
    entries.sort()
    return hashlib.sha256(json.dumps([place, entries]).encode()).hexdigest()


def place_signature(source: Path | ImageStack) -> str:
    """Return a hash over where a scan's files are, whatever they are; the same while their disk is not mounted."""
    paths = source.files if isinstance(source, ImageStack) else (source,)
    return hashlib.sha256(json.dumps([str(path.resolve()) for path in paths]).encode()).hexdigest()


def content_signature(folder: Path) -> str:
    """Return a hash over the content of a scan's files, whatever their names, order and times are."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("".join(sorted(map(sha256_of_file, files))).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size and modification time of a file or of a link's target; -1 where there is none."""
    try:
        stat = path.stat()
    except OSError:  # a link without a target; a file that was taken away meanwhile
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
