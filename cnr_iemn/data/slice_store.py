"""The slice store: grey pixels and lung masks of a cohort, memory-mapped, made once and read by every backbone.

Layout: ``<cache>/<cohort>-<hash of its root>/<fingerprint>/<scan_id>/{grey.npy, lungs.npy, scan.json, source.json}``;
grey takes a byte a pixel, the mask a bit. The fingerprint covers every setting and code version that changes a pixel.
Labels and splits never enter the store. source.json describes the source files of a scan.
"""

import errno
import hashlib
import json
import math
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from cnr_iemn.constants import INPUT_WINDOW
from cnr_iemn.ct.io.acquisition import UNKNOWN, Acquisition
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.errors import StoreError
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.json_io import parse_json, read_json

PIXEL_VERSION = 8
"""Increased with every change of code that changes a pixel of the store or its layout."""


@dataclass(frozen=True)
class PixelSettings:
    """The settings that determine the store's pixels: the arguments of ``prepare_scan``."""

    size: int = 336
    lungs: str = "pleura"
    window: tuple[float, float] = INPUT_WINDOW
    crop: str = "none"
    read_options: ReadOptions = field(default_factory=ReadOptions)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits, a hash of these settings and the code's pixel version."""
        window = [float(value) for value in self.window]  # -1000 and -1000.0 are one window
        text = json.dumps({"pixel_version": PIXEL_VERSION, **asdict(self), "window": window}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


KnownNumber = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that is null in JSON where it is unknown."""


@dataclass(frozen=True)
class StoredScan:
    """scan.json. ``z_mm``: [n_slices], descending; ``spacing_mm``: step, row, column; NaN where unknown."""

    scan_id: str
    n_slices: int
    size: int
    spacing_mm: tuple[KnownNumber, KnownNumber, KnownNumber]
    z_mm: tuple[KnownNumber, ...]
    lung_litres: KnownNumber
    findings: tuple[str, ...]
    phantom: bool
    grey_sha256: str
    lungs_sha256: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class ScanSource:
    """source.json. ``files``: signature of the source files. The rest is as in ``PreparedScan``, empty in old files."""

    files: str
    source_sha256: str = ""
    acquisition: dict[str, str | float | None] = field(default_factory=dict)


class SliceStore:
    """The prepared scans of one cohort with one set of pixel settings. ``root``: the fingerprint's folder."""

    def __init__(self, root: Path, settings: PixelSettings) -> None:
        self.root = root
        self.settings = settings
        self._scans: dict[str, StoredScan] = {}

    @classmethod
    def locate(cls, cohort: Cohort, settings: PixelSettings, *, cache: Path) -> "SliceStore":
        """Return the store of a cohort, existing or not."""
        root_hash = hashlib.sha256(os.fsencode(cohort.root.resolve())).hexdigest()[:8]
        return cls(cache / f"{cohort.name}-{root_hash}" / settings.fingerprint(), settings)

    @property
    def fingerprint(self) -> str:
        """The name of the pixel settings."""
        return self.settings.fingerprint()

    def scan(self, scan_id: str) -> StoredScan:
        """Return the description of a scan. Raises StoreError where it is missing or of another version."""
        if scan_id not in self._scans:
            path = self.root / scan_id / "scan.json"
            if not path.is_file():
                raise StoreError(
                    f"The slice store {self.root} lacks scan {scan_id}. Run prepare.py for this cohort again."
                )
            self._scans[scan_id] = read_json(path, StoredScan, again=_again(path.parent), refusal=StoreError)
        return self._scans[scan_id]

    def acquisition(self, scan_id: str) -> Acquisition:
        """Return the acquisition of a scan; unknown where an earlier version of the program prepared it.

        It changes no pixel, so such scans are not prepared again. Raises StoreError where the store lacks the scan.
        """
        path = self.root / self.scan(scan_id).scan_id / "source.json"
        if not path.is_file():  # the scan was damaged, and preparing it again failed
            return UNKNOWN
        again = _again(path.parent)
        record = read_json(path, ScanSource, again=again, refusal=StoreError, extra="ignore", versioned=False)
        values = {name: value for name, value in record.acquisition.items() if value is not None}
        source = f"The acquisition in {path}"
        return parse_json(
            json.dumps(values).encode(), Acquisition, source=source, again=again, refusal=StoreError, versioned=False
        )

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [n_slices, size, size], memory-mapped."""
        return self._array(scan_id, "grey.npy", self.scan(scan_id).size)

    def lungs(self, scan_id: str) -> "PackedMask":
        """Return the lung mask; indexing unpacks slices."""
        size = self.scan(scan_id).size
        return PackedMask(self._array(scan_id, "lungs.npy", math.ceil(size / 8)), size)

    def damage(self, scan_id: str) -> str | None:
        """Return the first damaged file of a scan; None where its pixels match their checksums."""
        name = "scan.json"
        try:
            scan = SliceStore(self.root, self.settings).scan(scan_id)  # from the disk, not from the cache
            for name, columns, digest in (
                ("grey.npy", scan.size, scan.grey_sha256),
                ("lungs.npy", math.ceil(scan.size / 8), scan.lungs_sha256),
            ):
                if hashlib.sha256(self._array(scan_id, name, columns).data).hexdigest() != digest:
                    return name
        except (StoreError, OSError):  # missing or damaged
            return name
        return None

    def damaged_files(self, scan_ids: Sequence[str]) -> dict[str, Path]:
        """Return the first damaged file of each scan: about 10 ms of a core a scan."""
        with ThreadPoolExecutor() as threads:  # hashing releases Python's lock
            damages = zip(scan_ids, threads.map(self.damage, scan_ids), strict=True)
            return {scan_id: self.root / scan_id / name for scan_id, name in damages if name is not None}

    def require_intact(self, scan_ids: Sequence[str]) -> None:
        """Raise StoreError where the pixels of a scan are damaged."""
        damaged = self.damaged_files(scan_ids)
        if damaged:
            path = next(iter(damaged.values()))
            more = f"; {len(damaged) - 1} other scans are damaged, too" if len(damaged) > 1 else ""
            raise StoreError(f"{path} is damaged (its checksum differs){more}. {_again(path.parent)}")

    def _array(self, scan_id: str, name: str, columns: int) -> NDArray[np.uint8]:
        scan, path = self.scan(scan_id), self.root / scan_id / name
        try:
            array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(f"{path} is missing. {_again(path.parent)}") from error
        except (ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:  # a damaged header
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise StoreError(f"{path} is damaged ({reason}). {_again(path.parent)}") from error
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise StoreError(
                f"{path} cannot be opened: this process has reached its limit of open files, and needs two for each "
                "scan. Raise the limit (ulimit -n 65536; above the hard limit, ask the administrator)."
            ) from error
        if array.shape != (scan.n_slices, scan.size, columns) or array.dtype != np.uint8:
            raise StoreError(
                f"{path} holds {array.dtype} {array.shape}, scan.json says uint8 "
                f"{(scan.n_slices, scan.size, columns)}. {_again(path.parent)}"
            )
        return array


def _again(folder: Path) -> str:
    return f"Run prepare.py for this cohort: it prepares the scan again. If that fails, delete {folder} first."


def read_slices(array: NDArray[np.uint8], index: int | slice) -> NDArray[np.uint8]:
    """Return a copy of slices of an array; a memory-mapped one then releases its pages.

    The pages stay in the system's cache but no longer count as memory of the process: a cohort's worth of them in each
    loader worker would exceed a cluster job's memory limit.
    """
    slices = np.array(array[index])
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.base.madvise(mmap.MADV_DONTNEED)
    return slices


class PackedMask:
    """A memory-mapped mask of one bit a pixel. Indexing returns slices of 0 and 1, uint8 [..., rows, columns]."""

    def __init__(self, bits: NDArray[np.uint8], columns: int) -> None:
        self._bits = bits
        self._columns = columns

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8]:
        return np.unpackbits(read_slices(self._bits, index), axis=-1, count=self._columns)
