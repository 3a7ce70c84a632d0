"""A zip with a scan in it, unpacked within limits and nowhere but in a folder of its own."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from cnr_iemn.errors import ScanError

MAX_FILES = 20_000
MAX_BYTES = 2**32
"""Of all files together, unpacked."""
LEFT_FREE = 2**28
"""Bytes that stay free on the disk, for others that write there."""
_CHUNK = 2**20
_UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,  # two files of one name, a name that is too long, or a disk that is full
    RuntimeError,  # encrypted
    NotImplementedError,  # a compression that Python lacks
)


@contextmanager
def unpacked(path: Path, scan: str) -> Iterator[Path]:
    """Give a temporary folder with the files of the zip, all of them regular ones. Raises ScanError.

    ``scan``: what messages call it.
    """
    with TemporaryDirectory(prefix="cnr-iemn-") as temporary:
        folder = Path(temporary) / "scan"
        folder.mkdir()
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, folder, scan)
        except _UNPACKING_ERRORS as error:
            # not the error's own words: they name files in the zip and the folder that it is unpacked to
            what = getattr(error, "strerror", None) or type(error).__name__
            raise ScanError(f"{scan}: the zip cannot be unpacked ({what}). Pack it again or free space.") from error
        yield folder


def _unpack(archive: zipfile.ZipFile, folder: Path, scan: str) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise ScanError(f"{scan}: the zip holds {len(entries):,} files, more than {MAX_FILES:,}. Pack one scan alone.")
    left = MAX_BYTES
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ScanError(f"{scan}: a file in the zip would land outside its folder. Pack it again without '..'.")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):  # what the directory says of sizes need not be true
                left -= len(chunk)
                if left < 0 or shutil.disk_usage(folder).free < LEFT_FREE + len(chunk):
                    raise ScanError(f"{scan}: the zip unpacks to more than {MAX_BYTES:,} bytes or the disk is full.")
                file.write(chunk)
