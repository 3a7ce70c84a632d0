"""Files that are finished or not there at all, and their checksums."""

import fcntl
import hashlib
import json
import math
import os
import resource
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_OTHER_FILES = 512
"""Room for what a process has open beside."""


def allow_open_files(count: int) -> None:
    """Let this process, and those it starts, have so many files open beside others, as far as the system lets it.

    1024 are usual, 256 on macOS; a mapped file keeps one open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing an older file in one step; missing folders are made.

    The bytes go to a temporary file beside ``path`` first. When writing fails, an older file stays as it was and the
    temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(
                file.fileno()
            )  # or a power failure after the rename could leave an empty file under the final name
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, line ends as given, under the promise of ``write_bytes_atomic``."""
    write_bytes_atomic(path, text.encode("utf-8"))


@contextmanager
def finished_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside ``path`` that takes its place, and an older one's, once it is filled.

    When filling it fails, the older one stays as it was and the new one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}.{kind}") for kind in ("tmp", "old"))
    new.mkdir()
    try:
        yield new
        for folder in (new, *(below for below in new.rglob("*") if below.is_dir())):
            sync_folder(folder)
        if path.exists():
            os.replace(path, old)  # first, since a folder replaces none that holds something
        os.replace(new, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def write_folder_atomic(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by name, into a folder that then holds them alone; it is there with all of them or as it was."""
    with finished_folder(folder) as new:
        for name, data in files.items():
            write_bytes_atomic(new / name, data)


@contextmanager
def exclusive(path: Path, when_taken: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a file, made where missing; it is free again when its process ends, however that comes.

    ``when_taken`` is called where another process holds it: it raises, or this waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            when_taken()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
        return {key: _with_nulls(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
