"""The inbox: series that others put into a folder, each taken when nothing has been added to it for a while."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cnr_iemn.ct.io.discovery import scan_name
from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import exclusive, write_text_atomic
from cnr_iemn.utils.text import visible

DONE, REFUSED = "done", "refused"
"""Folders of the inbox for series that are finished."""
_LOCK = ".lock"
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
"""Suffixes under which programs that copy files keep them until they are whole."""


@dataclass(frozen=True)
class Series:
    """A file or folder of the inbox. ``signature``: SHA-256 of the names, sizes and times of its files."""

    path: Path
    signature: str

    @property
    def name(self) -> str:
        """The name of the answer's folder."""
        return scan_name(self.path)


@dataclass
class _Observation:
    signature: str
    since: float


class Inbox:
    """The series of a folder: each file or folder directly in it, but hidden ones and files that are still copied.

    Args:
        folder: The inbox.
        settle_seconds: How long the files of a series must stay as they are before it is taken.
        keep: Leave finished series where they are; otherwise they go to ``done/`` or ``refused/``.
    """

    def __init__(self, folder: Path, *, settle_seconds: float, keep: bool = False) -> None:
        self.folder, self._settle_seconds, self._keep = folder, settle_seconds, keep
        self._observed: dict[Path, _Observation] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the inbox for this process. Raises RunError where another one has it."""

        def refuse() -> NoReturn:
            raise RunError(
                f"Another predict.py watches {visible(str(self.folder))}. One process serves an inbox: stop that one, "
                "or give another inbox (input=)."
            )

        with exclusive(self.folder / _LOCK, refuse):
            yield

    @property
    def n_waiting(self) -> int:
        """Number of series at the last look."""
        return len(self._observed)

    def settled(self, now: float) -> list[Series]:
        """Look at the folder and return the series that have settled, the longest unchanged first.

        Args:
            now: Seconds of a clock that never goes back.
        """
        observed: dict[Path, _Observation] = {}
        for path in self._entries():
            signature = _signature(path)
            if signature is None:  # empty, or taken away meanwhile
                continue
            earlier = self._observed.get(path)
            changed = earlier is None or earlier.signature != signature
            observed[path] = _Observation(signature, now) if changed or earlier is None else earlier
        self._observed = observed
        ready = [(entry.since, path) for path, entry in observed.items() if now - entry.since >= self._settle_seconds]
        return [Series(path, observed[path].signature) for _, path in sorted(ready)]

    def _entries(self) -> list[Path]:
        with os.scandir(self.folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and entry.name not in (DONE, REFUSED)
                and not entry.name.lower().endswith(_UNFINISHED)
            ]
        return [self.folder / name for name in sorted(names)]

    def is_unchanged(self, series: Series) -> bool:
        """Return whether the files of a series are still those that were taken."""
        return _signature(series.path) == series.signature

    def finish(self, series: Series, *, refused: str | None = None) -> None:
        """Move a series to ``done/``, or to ``refused/`` with its reason; with ``keep`` it stays."""
        if self._keep:
            return
        self._observed.pop(series.path, None)
        target = free_path(self.folder / (DONE if refused is None else REFUSED) / series.path.name)
        target.parent.mkdir(exist_ok=True)
        if refused is not None:  # first: a series without its reason would be a riddle
            write_text_atomic(target.with_name(f"{target.name}.txt"), f"{refused}\n")
        series.path.rename(target)


def _signature(path: Path) -> str | None:
    """Return what changes with the files of a series; None without any file."""
    digest, n_files = hashlib.sha256(), 0
    try:
        for file in sorted(_files(path)):
            status = file.stat(follow_symlinks=False)
            digest.update(repr((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns)).encode())
            n_files += 1
    except FileNotFoundError:
        return None
    return digest.hexdigest() if n_files else None


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def free_path(path: Path) -> Path:
    """Return the path, or with -2, -3 and so on behind its name where something has it."""
    candidate, number = path, 2
    while os.path.lexists(candidate):
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
