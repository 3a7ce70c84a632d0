"""demographics.json of each scan in the store: written where a manifest declares or headers are asked for.

It changes no pixel. A scan that is prepared again loses the file with its folder, and gets a new one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.data.demographics.groups import Demographics, HeaderGroups
from cnr_iemn.data.demographics.header import read_header_groups
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import ScanError, StoreError
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.sandbox import run_limited
from cnr_iemn.utils.text import listed

log = logging.getLogger(__name__)
FILE = "demographics.json"

_Job = tuple[Path | ImageStack, ReadOptions]


def stored_demographics(store: SliceStore, scan_id: str) -> Demographics:
    """Return what the store knows of a scan's patient and scanner; empty where nothing was declared or asked for.

    Raises StoreError where the file is damaged.
    """
    path = store.root / scan_id / FILE
    if not path.is_file():
        return Demographics()
    return read_json(path, Demographics, again=f"Delete it and run prepare.py again: {path}.", refusal=StoreError)


def store_demographics(
    cohort: Cohort,
    store: SliceStore,
    *,
    headers: bool,
    workers: int = 0,
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda done, total: done,
) -> None:
    """Write what the manifest declares and, on request, what headers say, beside the prepared scans.

    Headers that were read once are kept, also where later commands do not ask for them.

    Args:
        cohort: Its scans that the store lacks are left out.
        store: Of prepared scans.
        headers: Read those of the scans whose headers have not been read.
        workers: Limited processes, one scan each; 0 reads in this one.
        progress: Wraps the iterator of finished scans; its second argument is their number.

    Raises:
        StoreError: The store cannot be written, or a file in it is damaged.
    """
    scans = [scan for scan in cohort.scans if (store.root / scan.scan_id / "scan.json").is_file()]
    before = {scan.scan_id: stored_demographics(store, scan.scan_id) for scan in scans}
    now = {scan.scan_id: replace(before[scan.scan_id], declared=scan.declared) for scan in scans}
    unread = [scan for scan in scans if headers and before[scan.scan_id].header is None]
    jobs: list[_Job] = [(scan.source, store.settings.read_options) for scan in unread]
    results = run_limited(_read, jobs, workers=workers) if workers and jobs else enumerate(map(_read, jobs))

    def finish() -> Iterator[int]:
        for index, result in results:
            scan_id = unread[index].scan_id
            if isinstance(result, ScanError):
                log.warning("The headers of %s cannot be read again for its demographics: %s", scan_id, result)
            else:
                now[scan_id] = replace(now[scan_id], header=result)
            yield index

    for _ in progress(finish(), len(jobs)) if jobs else ():
        pass
    for scan_id, demographics in now.items():
        if demographics != before[scan_id]:
            _write(store.root / scan_id / FILE, demographics)
    _tell(now)


def _read(job: _Job) -> HeaderGroups | ScanError:
    source, options = job
    try:
        return read_header_groups(source, options)
    except ScanError as error:
        return error


def _write(path: Path, demographics: Demographics) -> None:
    try:
        write_text_atomic(path, json_text(asdict(demographics)))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
        ) from error


def _tell(scans: dict[str, Demographics]) -> None:
    """Say of how many scans each variable is known, and where manifest and headers contradict each other."""
    counts = Counter(name for demographics in scans.values() for name in demographics.values)
    if counts:
        texts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items())
        log.info("Demographics of %d scans, known of: %s.", len(scans), texts)
    contradicting: Sequence[str] = [scan_id for scan_id, groups in scans.items() if groups.contradictions]
    if contradicting:
        log.warning(
            "Sex or age in the manifest and in the headers differ: %s. The manifest counts.", listed(contradicting)
        )
