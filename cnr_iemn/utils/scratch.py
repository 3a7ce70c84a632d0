"""Temporary folders that are gone with their process, or removed by the next where it was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnr_iemn.errors import ConfigurationError

_PREFIX, _LOCK = "cnr-iemn-scratch-", ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder that is removed at the end, with the files of all processes in it.

    Its owner holds a lock in it; the folder of a killed owner is removed by the next call. A file system without locks
    keeps such folders.

    Raises:
        ConfigurationError: No folder can be made.
    """
    try:
        base = Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    except OSError as error:
        raise ConfigurationError(
            f"No folder for temporary files can be made ({error.strerror}). Set TMPDIR to one with some free space."
        ) from error
    for other in base.glob(f"{_PREFIX}*"):
        if other != folder:
            remove_ownerless(other)
    try:
        with (folder / f"{_LOCK}.new").open("w") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.rename(folder / f"{_LOCK}.new", folder / _LOCK)  # seen by others only when it is held
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_ownerless(folder: Path) -> None:
    """Remove a scratch folder whose owner is gone; leave any other."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, not quite made yet, or gone meanwhile
        return
