"""The slice store: grey pixels and lung masks of a cohort, memory-mapped, made once and read by every backbone.

Layout: ``<cache>/<cohort>-<hash of its root>/<fingerprint>/<scan_id>/{grey.npy, lungs.npy, scan.json, source.json}``;
grey takes a byte a pixel, the mask a bit. The fingerprint covers every setting and code version that changes a pixel.
Labels and splits never enter the store. source.json tells of the files that a scan was made from.
"""

import errno
import hashlib
import json
import math
import mmap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.ct.acquisition import UNKNOWN, Acquisition
from cnr_iemn.errors import StoreError
from cnr_iemn.permissions import Permissions
from cnr_iemn.records import SCHEMA_VERSION

PIXEL_VERSION = 5
"""Raised with every change of code that changes a pixel of the store or how it is kept."""


@dataclass(frozen=True)
class PixelSettings:
    """Everything that decides the store's pixels: the arguments of ``prepare_scan``."""

    size: int = 336
    lungs: str = "pleura"
    window: tuple[float, float] = (-1000.0, 400.0)
    crop: str = "none"
    allowed: Permissions = field(default_factory=Permissions)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that name these settings and the code's pixel version."""
        window = [float(value) for value in self.window]  # -1000 and -1000.0 are one window
        text = json.dumps({"pixel_version": PIXEL_VERSION, **asdict(self), "window": window}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredScan:
    """What scan.json says. ``z_mm``: [n_slices], descending; ``spacing_mm``: step, row, column; NaN: not known."""

    scan_id: str
    n_slices: int
    size: int
    spacing_mm: tuple[float, float, float]
    z_mm: tuple[float, ...]
    lung_litres: float
    findings: tuple[str, ...]
    phantom: bool
    grey_sha256: str
    lungs_sha256: str
    schema_version: int = SCHEMA_VERSION


class SliceStore:
    """The prepared scans of one cohort with one set of pixel settings. ``root``: the fingerprint's folder."""

    def __init__(self, root: Path, settings: PixelSettings) -> None:
        self.root = root
        self.settings = settings
        self._scans: dict[str, StoredScan] = {}

    @classmethod
    def locate(cls, cohort: Cohort, settings: PixelSettings, *, cache: Path) -> "SliceStore":
        """Return the store of a cohort, existing or not."""
        root_hash = hashlib.sha256(str(cohort.root.resolve()).encode()).hexdigest()[:8]
        return cls(cache / f"{cohort.name}-{root_hash}" / settings.fingerprint(), settings)

    @property
    def fingerprint(self) -> str:
        """The name of the pixel settings."""
        return self.settings.fingerprint()

    def scan(self, scan_id: str) -> StoredScan:
        """Return what the store knows of a scan. Raises StoreError where it is missing or of another version."""
        if scan_id not in self._scans:
            path = self.root / scan_id / "scan.json"
            if not path.is_file():
                raise StoreError(
                    f"The slice store {self.root} lacks scan {scan_id}. Run prepare.py for this cohort again."
                )
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("schema_version") != SCHEMA_VERSION:
                raise StoreError(
                    f"{path} has schema_version {values.get('schema_version')}, this version reads {SCHEMA_VERSION}. "
                    "Delete the folder and run prepare.py again."
                )
            for key in ("spacing_mm", "z_mm"):
                values[key] = tuple(map(_number, values[key]))
            values |= {"findings": tuple(values["findings"]), "lung_litres": _number(values["lung_litres"])}
            self._scans[scan_id] = StoredScan(**values)
        return self._scans[scan_id]

    def acquisition(self, scan_id: str) -> Acquisition:
        """Return how a scan was taken; unknown where a version that did not ask has prepared it.

        It changes no pixel, so such scans are not prepared again. Raises StoreError where the store lacks the scan.
        """
        path = self.root / self.scan(scan_id).scan_id / "source.json"
        if not path.is_file():  # damage was found and the scan not made again
            return UNKNOWN
        known = json.loads(path.read_text(encoding="utf-8")).get("acquisition", {})
        return replace(UNKNOWN, **{name: value for name, value in known.items() if value is not None})

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [n_slices, size, size], memory-mapped."""
        return self._array(scan_id, "grey.npy", self.scan(scan_id).size)

    def lungs(self, scan_id: str) -> "PackedMask":
        """Return the lung mask, unpacked slice by slice as it is indexed."""
        size = self.scan(scan_id).size
        return PackedMask(self._array(scan_id, "lungs.npy", math.ceil(size / 8)), size)

    def damage(self, scan_id: str) -> str | None:
        """Return which file of a scan is not what was written, None where its pixels equal their checksums."""
        name = "scan.json"
        try:
            scan = SliceStore(self.root, self.settings).scan(scan_id)  # from the disk, not as remembered
            for name, columns, digest in (
                ("grey.npy", scan.size, scan.grey_sha256),
                ("lungs.npy", math.ceil(scan.size / 8), scan.lungs_sha256),
            ):
                if hashlib.sha256(self._array(scan_id, name, columns).data).hexdigest() != digest:
                    return name
        except (StoreError, OSError, EOFError, ValueError, KeyError, TypeError):  # not there, cut, or no longer JSON
            return name
        return None

    def _array(self, scan_id: str, name: str, columns: int) -> NDArray[np.uint8]:
        scan, path = self.scan(scan_id), self.root / scan_id / name
        try:
            array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise StoreError(
                f"{path} cannot be opened: this process may have no more files open, and needs two for each scan. "
                "Raise the limit (ulimit -n 65536; beyond the hard limit, whoever runs the machine can)."
            ) from error
        if array.shape != (scan.n_slices, scan.size, columns) or array.dtype != np.uint8:
            raise StoreError(
                f"{path} holds {array.dtype} {array.shape}, scan.json says uint8 "
                f"{(scan.n_slices, scan.size, columns)}. Delete the folder {path.parent} and run prepare.py again."
            )
        return array


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def read_slices(array: NDArray[np.uint8], index: int | slice) -> NDArray[np.uint8]:
    """Return a copy of slices of an array; where it is mapped, this process does not keep the pages it has read.

    They stay in the system's cache while it has room for them, but no longer count as the process's own: a cohort's
    worth of them, once for each loader worker, is what a cluster would end a job for.
    """
    slices = np.array(array[index])
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.base.madvise(mmap.MADV_DONTNEED)
    return slices


class PackedMask:
    """A mask of one bit a pixel, memory-mapped; an index gives slices of 0 and 1, uint8 [..., rows, columns]."""

    def __init__(self, bits: NDArray[np.uint8], columns: int) -> None:
        self._bits = bits
        self._columns = columns

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8]:
        return np.unpackbits(read_slices(self._bits, index), axis=-1, count=self._columns)
