"""Preparation of scans into the slice store, each whole or not at all.

A scan's folder is renamed into place when it is complete: an interrupted preparation leaves no partial scan and resumes
where it stopped. Each scan has a lock, so that several processes and machines prepare one store together.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from cnr_iemn.ct.preprocess import PreparedScan, prepare_scan
from cnr_iemn.ct.source_signature import source_signature
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, ScanSource, SliceStore, StoredScan
from cnr_iemn.errors import CnrIemnError, RefusalCode, ScanError, StoreError, fault
from cnr_iemn.utils.atomic_io import exclusive, json_text, sync_folder, write_text_atomic
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.lookahead import map_ahead
from cnr_iemn.utils.sandbox import refusal, run_limited

log = logging.getLogger(__name__)

_Job = tuple[Path, ScanRecord, PixelSettings]
ELSEWHERE: Literal["elsewhere"] = "elsewhere"
"""The outcome of a scan that another process prepares at this moment."""
_Outcome = ScanError | Literal["elsewhere"] | None


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
    current = _current_scans(store, cohort)
    damaged = store.damaged_files([scan.scan_id for scan in cohort.scans if scan.scan_id in current]) if verify else {}
    pending = [scan for scan in cohort.scans if scan.scan_id not in current or scan.scan_id in damaged]
    if not pending:
        return store, failures
    _make_root(store)
    for scan_id, path in damaged.items():  # such a scan counts as missing, even if preparing it again fails
        log.warning("%s is damaged (its checksum differs); the scan is made again.", path)
        with _scan_lock(store.root, scan_id, lambda: None):
            (store.root / scan_id / "source.json").unlink(missing_ok=True)
    for _ in progress(_prepare_all(store, pending, workers, failures), len(pending)):
        pass
    return store, failures


def _make_root(store: SliceStore) -> None:
    """Make the store's folder and delete what killed processes have left there."""
    root = store.root
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{root} cannot be made or written ({error.strerror}). Give another ingest.cache.") from error
    try:
        write_text_atomic(root / "settings.json", json.dumps(asdict(store.settings), indent=1))
    except OSError as error:
        raise StoreError(
            f"{root} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
        ) from error
    for leftover in (*root.glob(".*.part"), *root.glob(".*.gone"), *root.glob(".*.lock")):
        scan_id = leftover.name[1:].rsplit(".", 1 if leftover.suffix == ".lock" else 2)[0]
        with suppress(_ElsewhereError), _scan_lock(root, scan_id, _refuse):  # which removes the lock
            shutil.rmtree(leftover, ignore_errors=True)


class _ElsewhereError(Exception):
    """Another process prepares the scan."""


def _refuse() -> NoReturn:
    raise _ElsewhereError


def _scan_lock(root: Path, scan_id: str, when_taken: Callable[[], None]) -> AbstractContextManager[None]:
    """Return the lock of a scan, whose file goes in the end. ``when_taken``: as of ``exclusive``."""
    return exclusive(root / f".{scan_id}.lock", when_taken, remove=True)


def _prepare_all(
    store: SliceStore, scans: list[ScanRecord], workers: int, failures: dict[str, ScanError]
) -> Iterator[str]:
    """Prepare the scans, those last that another process is at: they are there by then, or it has ended."""
    while scans:
        jobs = [(store.root, scan, store.settings) for scan in scans]
        outcomes = run_limited(prepare_one, jobs, workers=workers) if workers else _prepare_serially(jobs)
        elsewhere = []
        for index, outcome in outcomes:
            scan_id = scans[index].scan_id
            if outcome == ELSEWHERE:
                elsewhere.append(scans[index])
                continue
            if isinstance(outcome, ScanError):
                failures[scan_id] = ScanError(outcome.code, refusal(scan_id, outcome))
            yield scan_id
        for scan in elsewhere:
            wait = partial(log.info, "Another process prepares %s; waiting for it ...", scan.scan_id)
            with _scan_lock(store.root, scan.scan_id, wait):
                pass
        scans = elsewhere


def _prepare_serially(jobs: list[_Job]) -> Iterator[tuple[int, _Outcome]]:
    for index, job in enumerate(jobs):
        yield index, prepare_one(job)


def prepare_one(job: _Job) -> _Outcome:
    """Prepare one scan under its lock, unless it is there already, and rename it into place.

    An internal error refuses the scan, as in predict.py, and the other scans go on.

    Returns:
        None where it is prepared, a refusal, or ELSEWHERE where another process prepares it.
    """
    root, scan, settings = job
    try:
        with _scan_lock(root, scan.scan_id, _refuse):
            if _is_current(SliceStore(root, settings), scan):  # another process was here
                return None
            return _prepare_one(root, scan, settings)
    except _ElsewhereError:
        return ELSEWHERE
    except OSError as error:
        raise StoreError(
            f"{root}: scan {scan.scan_id} cannot be written ({error.strerror or f'disk full? {error}'}). Free some "
            "space or give another ingest.cache; scans already prepared are kept."
        ) from error


def _prepare_one(root: Path, scan: ScanRecord, settings: PixelSettings) -> ScanError | None:
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


def _current_scans(store: SliceStore, cohort: Cohort) -> set[str]:
    """Return the scans of the cohort that need not be prepared."""
    looks = map_ahead(partial(_is_current, store), cohort.scans)
    return {scan.scan_id for scan, current in zip(cohort.scans, looks, strict=True) if current}


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
