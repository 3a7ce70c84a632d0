"""Files that are finished or not there at all, and their checksums."""

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import re
import resource
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cnr_iemn.errors import CnrIemnError

_OTHER_FILES = 512
"""Room for what a process has open beside."""
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.(?P<kind>tmp|old)", re.DOTALL)  # names may break lines
_CLEARED: set[Path] = set()
"""Folders that ``clear_leftovers`` has looked at."""


def allow_open_files(count: int) -> None:
    """Let this process, and those it starts, have so many files open beside others, as far as the system lets it.

    1024 are usual, 256 on macOS; a mapped file keeps one open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count + _OTHER_FILES
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if resource.RLIM_INFINITY != soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def write_bytes_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` under the promise of ``atomic_file``."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file that takes the place of ``path``, and of an older file, in one step; missing folders are made.

    The bytes go to a temporary file beside ``path`` first. When writing fails, an older file stays as it was and the
    temporary one is removed; what a killed process has left in the folder is removed by the next that writes there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent)
    with _temporary(path, _make_file) as (temporary, descriptor):
        try:
            with open(descriptor, "wb", closefd=False) as file:
                yield file
                file.flush()
                os.fsync(descriptor)  # or a power failure after the rename could leave an empty file in its place
            os.replace(temporary, path)
        except OSError as error:
            if error.errno is None:
                raise
            # a write names no file, and a rename the temporary one
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, line ends as given, under the promise of ``write_bytes_atomic``."""
    write_bytes_atomic(path, text.encode("utf-8"))


@contextmanager
def finished_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside ``path`` that takes its place, and an older one's, once it is filled.

    When filling it fails, the older one stays as it was and the new one is removed. Where the process is killed between
    the two renames, ``recover_folder`` puts the older one back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    clear_leftovers(path.parent)
    with _temporary(path, _make_folder) as (new, _):
        old = new.with_suffix(".old")
        try:
            yield new
            for folder in (new, *(below for below in new.rglob("*") if below.is_dir())):
                sync_folder(folder)
            if os.path.lexists(path):
                os.replace(path, old)  # first, since a folder replaces none that holds something
            os.replace(new, path)
        finally:
            if os.path.lexists(old) and not os.path.lexists(path):
                os.replace(old, path)
            for left in (new, old):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:  # a file, or a link, which stood in the folder's place
                    left.unlink(missing_ok=True)


def recover_folder(path: Path) -> None:
    """Put back the folder that a killed process has moved away from ``path`` to put another in its place."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.old"):
        if _LEFTOVER.fullmatch(old.name) and not path.exists():
            with _abandoned(old.with_suffix(".tmp")) as abandoned, suppress(OSError):  # another process was faster
                if abandoned:
                    os.rename(old, path)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of killed processes from a folder, at this process's first look at it."""
    if folder.absolute() in _CLEARED:
        return
    _CLEARED.add(folder.absolute())
    for path in folder.glob(".*"):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (match["kind"] == "old" and not path.with_name(match["name"]).exists()):
            continue  # not ours, or the only one of its name: see recover_folder
        with _abandoned(path) as abandoned, suppress(OSError):  # of another user's, in a folder of many
            if abandoned and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif abandoned:
                path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Give a new file or folder beside ``path``, and its descriptor: while that is open, its owner lives.

    ``make`` makes one at a path and opens it.
    """
    while True:
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            descriptor = make(new)
        except FileNotFoundError:  # a new folder that another process had for a leftover, before it was opened
            if path.parent.is_dir():
                continue
            raise
        try:
            with suppress(OSError):  # where the file system knows no locks, nothing is taken for a leftover
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if new.exists():  # else another process had it for a leftover, before it was locked
                yield new, descriptor
                return
        finally:
            os.close(descriptor)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Tell whether a temporary file or folder has no owner that lives, and keep one from coming; True without any."""
    try:
        descriptor = os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))
    except OSError as error:  # a link, or another user's
        yield error.errno == errno.ENOENT
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:  # held, or the file system knows no locks
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def write_folder_atomic(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by name, into a folder that then holds them alone; it is there with all of them or as it was."""
    with finished_folder(folder) as new:
        for name, data in files.items():
            write_bytes_atomic(new / name, data)


@contextmanager
def exclusive(
    path: Path, when_taken: Callable[[], None], *, shared: bool = False, remove: bool = False
) -> Iterator[None]:
    """Hold the lock on a file, made where missing; it is free again when its process ends, however that comes.

    ``when_taken`` is called where another process holds it: it raises, or this waits. ``shared``: others that share it
    may hold it, too. ``remove``: the file goes in the end.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_lock(path) as lock:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                when_taken()
                fcntl.flock(lock, kind)
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                continue  # its owner has removed it meanwhile
            try:
                yield
            finally:
                if remove:
                    path.unlink(missing_ok=True)
            return


def open_lock(path: Path) -> IO[bytes]:
    """Open the file of a lock, made where missing. What it holds stays; CnrIemnError where it is a link."""
    try:
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise CnrIemnError(
            f"{path} is a link, and a lock must be a file: through a link, its target would be locked. Remove the link."
        ) from error


def sync_folder(folder: Path) -> None:
    """Have the files of a folder, and their names, written to the disk before this returns."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value: object) -> str:
    """Return JSON in which a number that is not known (NaN) is null, which every reader of JSON takes."""
    return json.dumps(_with_nulls(value), indent=1, allow_nan=False)


def _with_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
