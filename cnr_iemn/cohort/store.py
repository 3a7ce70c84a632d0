"""The slice store: grey pixels and lung masks of a cohort, memory-mapped, made once and read by every backbone.

Layout: ``<cache>/<cohort>-<hash of its root>/<fingerprint>/<scan_id>/{grey.npy, lungs.npy, scan.json, source.json}``.
The fingerprint covers every setting and code version that changes a pixel. A scan's folder is renamed into place when
it is whole, so that an interrupted preparation leaves nothing half-written and goes on where it stopped. Labels and
splits never enter the store.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.ct.prepare import PreparedScan, prepare_scan
from cnr_iemn.errors import ScanError, StoreError
from cnr_iemn.files import write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION

PIXEL_VERSION = 1
"""Raised with every change of code that changes a pixel of the store."""


@dataclass(frozen=True)
class PixelSettings:
    """Everything that X: HU at grey 0 and 255; ``size``: side in pixels; ``crop``: see ``prepare_scan``."""

    size: int = 336
    lungs: str = "border"
    window: tuple[float, float] = (-1000.0, 400.0)
    crop: str = "none"

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that name these settings and the code's pixel version."""
        window = [float(value) for value in self.window]  # -1000 and -1000.0 are one window
        text = json.dumps({"pixel_version": PIXEL_VERSION, **asdict(self), "window": window}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredScan:
    """What scan.json says. ``z_mm``: [n_slices], descending; ``spacing_mm``: slice step, row, column."""

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
            tuples = {key: tuple(values[key]) for key in ("spacing_mm", "z_mm", "findings")}
            self._scans[scan_id] = StoredScan(**{**values, **tuples})
        return self._scans[scan_id]

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [n_slices, size, size], memory-mapped."""
        return self._array(scan_id, "grey.npy")

    def lungs(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the lung mask, 0 or 1, uint8 [n_slices, size, size], memory-mapped."""
        return self._array(scan_id, "lungs.npy")

    def _array(self, scan_id: str, name: str) -> NDArray[np.uint8]:
        scan = self.scan(scan_id)
        array: NDArray[np.uint8] = np.load(self.root / scan_id / name, mmap_mode="r", allow_pickle=False)
        if array.shape != (scan.n_slices, scan.size, scan.size) or array.dtype != np.uint8:
            raise StoreError(
                f"{self.root / scan_id / name} holds {array.dtype} {array.shape}, scan.json says uint8 "
                f"{(scan.n_slices, scan.size, scan.size)}. Delete the folder {self.root / scan_id} and run prepare.py "
                "again."
            )
        return array


def prepare_store(
    cohort: Cohort,
    settings: PixelSettings,
    *,
    cache: Path,
    workers: int = 1,
    progress: Callable[[Iterator[str], int], Iterator[str]] = lambda done, total: done,
) -> tuple[SliceStore, dict[str, str]]:
    """Bring every scan of the cohort into the store, one process a scan; return it and the refused scans' reasons.

    Scans that are there and whose source files have not changed are left alone. ``progress`` is given the ids of the
    scans as they are done and how many there are to do.
    """
    store = SliceStore.locate(cohort, settings, cache=cache)
    waiting = [scan for scan in cohort.scans if not _is_current(store, scan)]
    failures: dict[str, str] = {}
    if waiting:
        store.root.mkdir(parents=True, exist_ok=True)
        write_text_atomic(store.root / "settings.json", json.dumps(asdict(settings), indent=1))
        for _ in progress(_prepare_all(store, waiting, workers, failures), len(waiting)):
            pass
    return store, failures


def _prepare_all(store: SliceStore, scans: list[ScanRecord], workers: int, failures: dict[str, str]) -> Iterator[str]:
    if workers <= 1 or len(scans) == 1:
        for scan in scans:
            reason = _prepare_one(store.root, scan, store.settings)
            if reason:
                failures[scan.scan_id] = reason
            yield scan.scan_id
        return
    # spawn: a fork would copy the threads' locks of torch and OpenCV
    with ProcessPoolExecutor(min(workers, len(scans)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_prepare_one, store.root, scan, store.settings): scan for scan in scans}
        for future in as_completed(futures):
            scan = futures[future]
            try:
                reason = future.result()
            except BrokenProcessPool as error:
                raise StoreError(
                    f"A worker process died while scans were prepared ({scan.scan_id} or one beside it): out of "
                    "memory, or a file that crashes its decoder. Scans already prepared are kept. Run again with "
                    "ingest.workers=1 to see which scan it is."
                ) from error
            if reason:
                failures[scan.scan_id] = reason
            yield scan.scan_id


def _prepare_one(root: Path, scan: ScanRecord, settings: PixelSettings) -> str | None:
    """Prepare one scan and rename it into place. Return the reason where the scan is refused."""
    try:
        prepared = prepare_scan(scan.path, **asdict(settings))
    except ScanError as error:
        return str(error)
    folder = Path(tempfile.mkdtemp(prefix=f".{scan.scan_id}.", dir=root))
    try:
        _write_scan(folder, scan, prepared)
        target = root / scan.scan_id
        if target.exists():  # its source has changed
            shutil.rmtree(target)
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing left to remove after the rename
    return None


def _write_scan(folder: Path, scan: ScanRecord, prepared: PreparedScan) -> None:
    hashes = {}
    for name, array in (("grey", prepared.grey), ("lungs", prepared.lungs.astype(np.uint8))):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        hashes[name] = hashlib.sha256(array.tobytes()).hexdigest()
    stored = StoredScan(
        scan_id=scan.scan_id,
        n_slices=len(prepared.grey),
        size=prepared.grey.shape[-1],
        spacing_mm=prepared.spacing_mm,
        z_mm=tuple(float(z) for z in prepared.z_mm),
        lung_litres=prepared.lung_litres,
        findings=prepared.findings,
        phantom=prepared.phantom,
        grey_sha256=hashes["grey"],
        lungs_sha256=hashes["lungs"],
    )
    (folder / "scan.json").write_text(json.dumps(asdict(stored), indent=1), encoding="utf-8")
    source = {"files": _source_signature(scan.path), "source_sha256": prepared.source_sha256}
    (folder / "source.json").write_text(json.dumps(source, indent=1), encoding="utf-8")


def _is_current(store: SliceStore, scan: ScanRecord) -> bool:
    """Tell whether the scan is in the store and its source files are the ones it was made from."""
    path = store.root / scan.scan_id / "source.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["files"] == _source_signature(scan.path)


def _source_signature(folder: Path) -> str:
    """Return a hash over name, size and time of change of the files below a folder, without reading them."""
    entries = sorted(
        (str(Path(parent, name).relative_to(folder)), *_size_and_time(Path(parent, name)))
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns
