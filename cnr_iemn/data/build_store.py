"""Preparation of scans into the slice store, each whole or not at all.

A scan's folder is renamed into place when it is complete: an interrupted preparation leaves no partial scan and resumes
where it stopped.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cnr_iemn.ct.io.folders import folders_with_files
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.ct.preprocess import PreparedScan, prepare_scan
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, ScanSource, SliceStore, StoredScan
from cnr_iemn.errors import CnrIemnError, RefusalCode, ScanError, StoreError, fault
from cnr_iemn.utils.atomic_io import exclusive, json_text, sync_folder, write_text_atomic
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.sandbox import refusal, run_limited

log = logging.getLogger(__name__)

_Job = tuple[Path, ScanRecord, PixelSettings]


def prepare_store(
    cohort: Cohort,
    settings: PixelSettings,
    *,
    cache: Path,
    workers: int = 0,
    verify: bool = False,
    progress: Callable[[Iterator[str], int], Iterator[str]] = lambda done, total: done,
) -> tuple[SliceStore, dict[str, ScanError]]:
    """Prepare every scan of the cohort. Scans in the store whose source files have not changed are kept.

    Args:
        cohort: The scans.
        settings: Of the pixels.
        cache: The folder of all stores.
        workers: Number of limited processes, one scan each (``run_limited``); 0 prepares in this process.
        verify: Compare the pixels in the store with their checksums, and prepare damaged scans again.
        progress: Wraps the iterator of scan ids; its second argument is their number.

    Returns:
        The store, and the refusals by scan_id.

    Raises:
        StoreError: The store cannot be written.
    """
    store = SliceStore.locate(cohort, settings, cache=cache)
    failures: dict[str, ScanError] = {}
    damaged = _damaged(store, cohort) if verify else []
    if not damaged and all(_is_current(store, scan) for scan in cohort.scans):
        return store, failures
    with _exclusive_store(store.root):
        for scan_id in damaged:  # a damaged scan counts as missing, even if preparing it again fails
            (store.root / scan_id / "source.json").unlink(missing_ok=True)
        pending = [scan for scan in cohort.scans if not _is_current(store, scan)]  # another process may have been here
        try:
            write_text_atomic(store.root / "settings.json", json.dumps(asdict(settings), indent=1))
        except OSError as error:
            raise StoreError(
                f"{store.root} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
            ) from error
        for _ in progress(_prepare_all(store, pending, workers, failures), len(pending)):
            pass
    return store, failures


def _damaged(store: SliceStore, cohort: Cohort) -> list[str]:
    """Return the damaged scans of the store, with a warning for each."""
    scans = [scan.scan_id for scan in cohort.scans if _is_current(store, scan)]
    damaged = store.damaged_files(scans)
    for path in damaged.values():
        log.warning("%s is damaged (its checksum differs); the scan is made again.", path)
    return list(damaged)


@contextmanager
def _exclusive_store(root: Path) -> Iterator[None]:
    """Hold the store's lock, after any other process that prepares it, and delete leftovers of killed processes."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / ".lock").touch()
    except OSError as error:
        raise StoreError(f"{root} cannot be made or written ({error.strerror}). Give another ingest.cache.") from error
    with exclusive(root / ".lock", lambda: log.info("Another process prepares %s; waiting for it ...", root)):
        for leftover in root.glob(".*.part"):
            # renamed first: a worker that outlived its parent cannot move a half-deleted folder into place
            target = leftover.with_suffix(".gone")
            with suppress(FileNotFoundError):
                leftover.rename(target)
        for leftover in root.glob(".*.gone"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _prepare_all(
    store: SliceStore, scans: list[ScanRecord], workers: int, failures: dict[str, ScanError]
) -> Iterator[str]:
    jobs = [(store.root, scan, store.settings) for scan in scans]
    outcomes = run_limited(prepare_one, jobs, workers=workers) if workers else _prepare_serially(jobs)
    for index, error in outcomes:
        scan_id = scans[index].scan_id
        if error is not None:
            failures[scan_id] = ScanError(error.code, refusal(scan_id, error))
        yield scan_id


def _prepare_serially(jobs: list[_Job]) -> Iterator[tuple[int, ScanError | None]]:
    for index, job in enumerate(jobs):
        yield index, prepare_one(job)


def prepare_one(job: _Job) -> ScanError | None:
    """Prepare one scan and rename it into place. Return the refusal, None where there is none.

    An internal error refuses the scan, as in predict.py, and the other scans go on.
    """
    root, scan, settings = job
    before = source_signature(scan.source)
    try:
        prepared = prepare_scan(scan.source, **vars(settings))
    except ScanError as error:
        return error
    except (CnrIemnError, MemoryError):  # a wrong setting for all scans; a limit, which the caller reports
        raise
    except Exception as error:  # noqa: BLE001 - see above
        return fault(scan.scan_id, error)
    if source_signature(scan.source) != before:
        return ScanError(
            RefusalCode.FILES_CHANGED,
            f"{scan.scan_id}: its files changed while they were read. Run again when they are all there.",
        )
    folder = root / f".{scan.scan_id}.{uuid.uuid4().hex}.part"
    try:
        folder.mkdir()
        _write_scan(folder, scan, prepared, before)
        sync_folder(folder)  # otherwise a power failure after the rename could leave empty files
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
    """Rename a folder over an older one, which is moved away first: no reader finds it half deleted."""
    while True:
        try:
            os.rename(folder, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        outdated = target.with_name(f".{target.name}.{uuid.uuid4().hex}.gone")
        with suppress(FileNotFoundError):  # a worker that outlived its parent was faster
            os.rename(target, outdated)
        shutil.rmtree(outdated, ignore_errors=True)


def _write_scan(folder: Path, scan: ScanRecord, prepared: PreparedScan, signature: str) -> None:
    hashes = {}
    for name, array in (("grey", prepared.grey), ("lungs", np.packbits(prepared.lungs, axis=-1))):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        hashes[name] = hashlib.sha256(array.data).hexdigest()
    record = StoredScan(
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
    (folder / "scan.json").write_text(json_text(asdict(record)), encoding="utf-8")
    acquisition = asdict(prepared.acquisition)
    source = {"files": signature, "source_sha256": prepared.source_sha256, "acquisition": acquisition}
    (folder / "source.json").write_text(json_text(source), encoding="utf-8")


def _is_current(store: SliceStore, scan: ScanRecord) -> bool:
    """Return whether the scan is in the store and its source files have not changed."""
    path = store.root / scan.scan_id / "source.json"
    try:
        source = read_json(
            path, ScanSource, again="It is made again.", refusal=StoreError, extra="ignore", versioned=False
        )
    except StoreError:  # not there, or cut by a power failure
        return False
    return source.files == source_signature(scan.source)


def source_signature(source: Path | ImageStack, *, names: bool = True) -> str:
    """Return a hash over name, size and modification time of a scan's files, without reading them.

    For images it covers the manifest's pixel values, offset and spacing, too. ``names``: without them, nobody can tell
    from the hash how files and folders are called.
    """
    if isinstance(source, ImageStack):
        reading: tuple[object, ...] = (source.values, source.offset, source.spacing_mm)
        entries = [(str(path) if names else "", *_size_and_time(path)) for path in source.files]  # in their order
        return hashlib.sha256(json.dumps([reading, entries]).encode()).hexdigest()
    place = str(source.resolve()) if names else ""
    if source.is_file():
        return hashlib.sha256(json.dumps([place, *_size_and_time(source)]).encode()).hexdigest()
    entries = sorted(
        (str(path.relative_to(source)) if names else "", *_size_and_time(path))
        for _, files, _ in folders_with_files(source, lambda *_: None)  # reading refuses such a folder
        for path in files
    )
    return hashlib.sha256(json.dumps([place, entries]).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size and modification time of a file or of a link's target; -1 where there is none."""
    try:
        stat = path.stat()
    except OSError:  # a link without a target; a file that was taken away meanwhile
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
