"""The files of scans: below a folder, in the order that people expect, or unpacked from a zip within limits."""

import hashlib
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from stat import S_IFLNK, S_IFMT, S_IFREG
from tempfile import TemporaryDirectory

from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.utils.lookahead import LOOKS

MAX_DEPTH = 8
"""Folders below folders; deeper trees are refused."""
_STORES = {".git", ".dvc"}
_READ = {S_IFREG, S_IFLNK}
_LITTER = {"dicomdir", "lockfile", "version", "readme", "license", "thumbs.db", "ehthumbs.db", "desktop.ini"}
_LITTER_FOLDERS = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information"}
MAX_FILES = 20_000
MAX_BYTES = 2**32
"""Of all files together, unpacked."""
LEFT_FREE = 2**28
"""Bytes that stay free on the disk, for others that write there."""
_CHUNK = 2**20
_CHECK = "Check the disk and the permissions."
_LONGEST_NAME, _LONGEST_SUFFIX = 255, 16  # bytes of a file name, characters that are kept of a longer one
UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,  # two files of one name, a name that is too long, or a disk that is full
    RuntimeError,  # encrypted
    NotImplementedError,  # a compression that Python lacks
    ValueError,  # a name that is not in the encoding it says, or has no place on a disk
)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts P2 before P10, ignoring case."""
    return [
        (0, int(token), "") if token.isdecimal() else (1, 0, token.lower())
        for token in re.split(r"(\d+)", text)
        if token
    ]


def is_litter(path: Path) -> bool:
    """Tell whether the file is one that operating systems and archives leave behind, by its name or its folder's.

    ``path``: at best relative to where the scans are, since that may lie in such a folder itself.
    """
    folders = () if path.is_absolute() else path.parts[:-1]
    return path.name.startswith(".") or path.name.lower() in _LITTER or any(map(is_litter_folder, folders))


def is_litter_folder(name: str) -> bool:
    """Tell whether a folder of this name is one that file servers and archives leave behind."""
    return name.lower() in _LITTER_FOLDERS


def folders_with_files(
    root: Path, refuse: Callable[[Path, RefusalCode, str], object], *, threads: ThreadPoolExecutor | None = None
) -> Iterator[tuple[Path, list[Path], int]]:
    """Yield each folder from ``root`` down with its files, in natural order, and how many links lead nowhere new.

    A link to a file is a file, and so is a link whose target is missing, which the reader then names. A link to a
    folder outside ``root`` is followed; one to a folder within or above it, or to one that was followed already, leads
    nowhere new. The stores of git-annex and DVC, to which their links lead, are left out, and what file servers and
    archives leave behind.

    Args:
        root: The folder.
        refuse: Called with a folder that cannot be listed, whose files cannot be reached or that lies deeper than
            MAX_DEPTH, and why; where it returns, the folder is skipped with all below.
        threads: List the folders that come next; without them each folder is listed when it is its turn.
    """
    start = os.path.realpath(root)
    followed = {start}
    pending = [(root, start)]  # the last is next; its real path spares one look at each folder above it
    ahead: dict[Path, Future[list[os.DirEntry[str]] | str]] = {}
    while pending:
        if threads is not None:
            for path in (path for path, _ in pending[-LOOKS:] if path not in ahead):
                ahead[path] = threads.submit(_list_folder, path)
        folder, real = pending.pop()
        entries = ahead.pop(folder).result() if threads is not None else _list_folder(folder)
        if len(folder.relative_to(root).parts) > MAX_DEPTH:
            refuse(
                folder, RefusalCode.TOO_DEEP, f"more than {MAX_DEPTH} folders deep. Name a folder nearer to the scans."
            )
            continue
        if isinstance(entries, str):
            refuse(folder, RefusalCode.NO_ACCESS, f"{entries}. {_CHECK}")
            continue
        below, files, n_links = _sort_entries(entries, real, start, followed)
        pending += [(folder / name, place) for name, place in reversed(below)]
        yield folder, [folder / name for name in files], n_links


def _list_folder(folder: Path) -> list["os.DirEntry[str]"] | str:
    """Return the entries of a folder in natural order, or why it cannot be listed or entered."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    try:
        with suppress(StopIteration, FileNotFoundError):  # there is none, or it was taken away meanwhile
            (folder / next(entry.name for entry in entries if not _is_folder(entry))).lstat()
    except OSError as error:  # a folder that may be listed, but not entered
        return f"its files cannot be reached ({error.strerror})"
    for link in (entry for entry in entries if entry.is_symlink()):
        _kind(link)  # which the entry remembers: a look less when its turn comes
    return entries


def _sort_entries(
    entries: list["os.DirEntry[str]"], folder: str, root: str, followed: set[str]
) -> tuple[list[tuple[str, str]], list[str], int]:
    """Return a folder's folders with their real paths, its files, and the number of links that lead nowhere new.

    ``folder``, ``root``, ``followed``: real paths; the last takes in where links lead. What a listing tells of its
    entries spares a look at each file.
    """
    below: list[tuple[str, str]] = []
    files: list[str] = []
    n_links = 0
    for entry in entries:
        link = entry.is_symlink()
        if _is_folder(entry):
            if entry.name in _STORES or is_litter_folder(entry.name):
                continue
            real = os.path.realpath(entry.path) if link else os.path.join(folder, entry.name)
            if _is_new(real, link, root, followed):
                below.append((entry.name, real))
            else:
                n_links += 1
        elif entry.is_file(follow_symlinks=False) or (link and _kind(entry) in _READ):
            files.append(entry.name)
        elif link:  # such as to a device
            n_links += 1
    return below, files, n_links


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, or one out of reach
        return False


def _is_new(real: str, link: bool, root: str, followed: set[str]) -> bool:
    """Tell whether a folder is not met elsewhere, and take note of where a link to it leads.

    ``real``, ``root``, ``followed``: real paths, the second among the last.
    """
    if not link:
        return real not in followed  # one may have been met by a link before
    if _within(root, real) or any(_within(real, other) for other in followed):
        return False
    followed.add(real)
    return True


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _kind(link: "os.DirEntry[str]") -> int:
    """Return what kind of file a link leads to, as ``stat`` names it; S_IFLNK where it has no target."""
    try:
        return S_IFMT(link.stat().st_mode)
    except OSError:  # no target, a loop of links, or one out of reach
        return S_IFLNK


@contextmanager
def unpacked(path: Path, scan: str) -> Iterator[Path]:
    """Give a temporary folder with the files of the zip, all of them regular ones. Raises ScanError.

    ``scan``: what messages call it.
    """
    with TemporaryDirectory(prefix="cnr-iemn-") as temporary:
        folder = Path(temporary) / "scan"
        folder.mkdir()
        unpack_zip(path, folder, scan, max_files=MAX_FILES, max_bytes=MAX_BYTES)
        yield folder


def unpack_zip(path: Path, folder: Path, scan: str, *, max_files: int, max_bytes: int) -> None:
    """Write the files of a zip below a folder, all of them regular ones.

    Args:
        path: The zip.
        folder: An empty one.
        scan: What messages call the zip.
        max_files: Most files.
        max_bytes: Most bytes of all files together, unpacked; ``LEFT_FREE`` stays free on the disk.

    Raises:
        ScanError: It cannot be unpacked, goes beyond a limit, or has a path outside the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, folder, scan, max_files, max_bytes)
    except UNPACKING_ERRORS as error:
        # not the error's own words: they name files in the zip and the folder that it is unpacked to
        what = getattr(error, "strerror", None) or type(error).__name__
        raise ScanError(
            RefusalCode.DAMAGED_ZIP, f"{scan}: the zip cannot be unpacked ({what}). Pack it again or free space."
        ) from error


def _unpack(archive: zipfile.ZipFile, folder: Path, scan: str, max_files: int, max_bytes: int) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > max_files:
        raise ScanError(
            RefusalCode.TOO_LARGE,
            f"{scan}: the zip holds {len(entries):,} files, more than {max_files:,}. Pack one scan alone.",
        )
    left = max_bytes
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ScanError(
                RefusalCode.UNSAFE_ZIP,
                f"{scan}: a file in the zip would land outside its folder. Pack it again without '..'.",
            )
        target = folder.joinpath(*map(_shorten, name.parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):  # what the directory says of sizes need not be true
                left -= len(chunk)
                if left < 0 or shutil.disk_usage(folder).free < LEFT_FREE + len(chunk):
                    raise ScanError(
                        RefusalCode.TOO_LARGE,
                        f"{scan}: the zip unpacks to more than {max_bytes:,} bytes or the disk is full.",
                    )
                file.write(chunk)


def _shorten(name: str) -> str:
    """Return a part of a path as a disk takes it: a name in another encoding grows when it is read as cp437."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    suffix = PurePosixPath(name).suffix[:_LONGEST_SUFFIX]
    return f"{name[:_LONGEST_SUFFIX]}-{hashlib.sha256(os.fsencode(name)).hexdigest()}{suffix}"
