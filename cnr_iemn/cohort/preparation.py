"""Scans into the slice store, each whole or not at all.

A scan's folder is renamed into place when it is whole, so that an interrupted preparation leaves nothing half-written
and goes on where it stopped.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.cohort.store import PixelSettings, SliceStore, StoredScan
from cnr_iemn.ct.images import ImageStack
from cnr_iemn.ct.limited import refusal, run_limited
from cnr_iemn.ct.prepare import PreparedScan, prepare_scan
from cnr_iemn.errors import ScanError, StoreError
from cnr_iemn.files import exclusive, json_text, sync_folder, write_text_atomic

_Job = tuple[Path, ScanRecord, PixelSettings]


def prepare_store(
    cohort: Cohort,
    settings: PixelSettings,
    *,
    cache: Path,
    workers: int = 0,
    verify: bool = False,
    progress: Callable[[Iterator[str], int], Iterator[str]] = lambda done, total: done,
) -> tuple[SliceStore, dict[str, str]]:
    """Bring every scan of the cohort into the store; return it and the refused scans' reasons.

    ``workers``: limited processes, one scan each (see ``run_limited``); 0 reads in this process. Scans
    that are there and whose source files have not changed are left alone; with ``verify`` also their pixels are
    compared with their checksums, and a damaged scan is told and made again. ``progress`` is given the ids of the scans
    as they are done and how many there are to do.
    """
    store = SliceStore.locate(cohort, settings, cache=cache)
    failures: dict[str, str] = {}
    damaged = _damaged(store, cohort, workers) if verify else []
    if not damaged and all(_is_current(store, scan) for scan in cohort.scans):
        return store, failures
    with _alone(store.root):
        for scan_id in damaged:  # so that it counts as missing, even if it cannot be made again
            (store.root / scan_id / "source.json").unlink(missing_ok=True)
        waiting = [scan for scan in cohort.scans if not _is_current(store, scan)]  # another process may have been here
        try:
            write_text_atomic(store.root / "settings.json", json.dumps(asdict(settings), indent=1))
        except OSError as error:
            raise StoreError(
                f"{store.root} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
            ) from error
        for _ in progress(_prepare_all(store, waiting, workers, failures), len(waiting)):
            pass
    return store, failures


def _damaged(store: SliceStore, cohort: Cohort, workers: int) -> list[str]:
    """Return and print the scans of which the store no longer holds what was written."""
    scans = [scan.scan_id for scan in cohort.scans if _is_current(store, scan)]
    with ThreadPoolExecutor(max(workers, 1)) as threads:  # hashing leaves Python's lock to the others
        found = {scan_id: name for scan_id, name in zip(scans, threads.map(store.damage, scans), strict=True) if name}
    for scan_id, name in found.items():
        print(f"{store.root / scan_id / name} is damaged (its checksum differs); the scan is made again.", flush=True)
    return list(found)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the store's lock, waiting for another process that prepares it, and clear what a killed one left behind."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / ".lock").touch()
    except OSError as error:
        raise StoreError(f"{root} cannot be made or written ({error.strerror}). Give another ingest.cache.") from error
    with exclusive(root / ".lock", lambda: print(f"Another process prepares {root}; waiting for it ...", flush=True)):
        for left in root.glob(".*.part"):
            # renamed first: a worker that outlived its parent can then not move a half-deleted folder into place
            gone = left.with_suffix(".gone")
            with suppress(FileNotFoundError):
                left.rename(gone)
        for left in root.glob(".*.gone"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _prepare_all(store: SliceStore, scans: list[ScanRecord], workers: int, failures: dict[str, str]) -> Iterator[str]:
    jobs = [(store.root, scan, store.settings) for scan in scans]
    done = run_limited(prepare_one, jobs, workers=workers) if workers else _one_by_one(jobs)
    for index, refused in done:
        scan_id = scans[index].scan_id
        if refused is not None:
            failures[scan_id] = refusal(scan_id, refused)
        yield scan_id


def _one_by_one(jobs: list[_Job]) -> Iterator[tuple[int, ScanError | None]]:
    for index, job in enumerate(jobs):
        yield index, prepare_one(job)


def prepare_one(job: _Job) -> ScanError | None:
    """Prepare one scan and rename it into place. Return the refusal where there is one."""
    root, scan, settings = job
    before = _source_signature(scan.source)
    try:
        prepared = prepare_scan(scan.source, **vars(settings))
    except ScanError as error:
        return error
    if _source_signature(scan.source) != before:
        return ScanError(f"{scan.scan_id}: its files changed while they were read. Run again when they are all there.")
    folder = root / f".{scan.scan_id}.{uuid.uuid4().hex}.part"
    try:
        folder.mkdir()
        _write_scan(folder, scan, prepared, before)
        sync_folder(folder)  # or a power failure after the rename could leave empty files under the final name
        _move_into_place(folder, root / scan.scan_id)
    except OSError as error:
        raise StoreError(
            f"{root}: scan {scan.scan_id} cannot be written ({error.strerror or f'disk full? {error}'}). Free some "
            "space or give another ingest.cache; scans already prepared are kept."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing left to remove after the rename
    return None


def _move_into_place(folder: Path, target: Path) -> None:
    """Rename a whole folder over an older one, which is moved away first: no reader finds it half deleted."""
    while True:
        try:
            os.rename(folder, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        gone = target.with_name(f".{target.name}.{uuid.uuid4().hex}.gone")
        with suppress(FileNotFoundError):  # a worker that outlived its parent was faster
            os.rename(target, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _write_scan(folder: Path, scan: ScanRecord, prepared: PreparedScan, signature: str) -> None:
    hashes = {}
    for name, array in (("grey", prepared.grey), ("lungs", np.packbits(prepared.lungs, axis=-1))):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        hashes[name] = hashlib.sha256(array.data).hexdigest()
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
    (folder / "scan.json").write_text(json_text(asdict(stored)), encoding="utf-8")
    taken = asdict(prepared.acquisition)
    source = {"files": signature, "source_sha256": prepared.source_sha256, "acquisition": taken}
    (folder / "source.json").write_text(json_text(source), encoding="utf-8")


def _is_current(store: SliceStore, scan: ScanRecord) -> bool:
    """Tell whether the scan is in the store and its source files are the ones it was made from."""
    path = store.root / scan.scan_id / "source.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):  # not there, or cut by a power failure
        return False
    return bool(known["files"] == _source_signature(scan.source))


def _source_signature(source: Path | ImageStack) -> str:
    """Return a hash over name, size and time of change of a scan's files, without reading them.

    Of images also how they are read, which their files do not tell.
    """
    if isinstance(source, ImageStack):
        reading: tuple[object, ...] = (source.values, source.offset, source.spacing_mm)
        entries = [(str(path), *_size_and_time(path)) for path in source.files]  # in their order
        return hashlib.sha256(json.dumps([reading, entries]).encode()).hexdigest()
    if source.is_file():
        return hashlib.sha256(json.dumps([str(source.resolve()), *_size_and_time(source)]).encode()).hexdigest()
    listed = sorted(
        (str(Path(parent, name).relative_to(source)), *_size_and_time(Path(parent, name)))
        for parent, _, names in os.walk(source)
        for name in names
    )
    return hashlib.sha256(json.dumps([str(source.resolve()), listed]).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns
