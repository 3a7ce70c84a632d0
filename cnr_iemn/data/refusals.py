"""refusals.json of a slice store: the scans that could not be read, and why, until they can be."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import ScanError, StoreError, reasons
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import exclusive, json_text, write_text_atomic
from cnr_iemn.utils.json_io import read_json

FILE = "refusals.json"


@dataclass(frozen=True)
class Refusals:
    """The file. ``refused``: reason by scan_id, also of scans that were left out since; ``codes``: ``RefusalCode``."""

    refused: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def stored_refusals(store: SliceStore) -> dict[str, str]:
    """Return the reasons by scan_id. Raises StoreError where the file is damaged."""
    return _read(store).refused


def _read(store: SliceStore) -> Refusals:
    path = store.root / FILE
    if not path.is_file():  # no scan was refused, or an earlier version of the program prepared them
        return Refusals()
    return read_json(path, Refusals, again=f"Delete {path} and run prepare.py again.", refusal=StoreError)


def store_refusals(store: SliceStore, scan_ids: Collection[str], refused: Mapping[str, ScanError]) -> None:
    """Write the reasons of scans that are refused, and keep those of scans that the cohort leaves out.

    Parts of a cohort end at any time: a lock lets one at a time read the file and write it again.

    Args:
        store: Where the others are prepared.
        scan_ids: Of all scans that were to be prepared.
        refused: Refusal by scan_id.

    Raises:
        StoreError: The store cannot be written.
    """
    before = _read(store)
    if _update(before, scan_ids, refused) == before:  # a store that only lets itself be read will do
        return
    path: Path = store.root / FILE
    try:
        with exclusive(store.root / f".{FILE}.lock", lambda: None, remove=True):
            write_text_atomic(path, json_text(asdict(_update(_read(store), scan_ids, refused))))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
        ) from error


def _update(before: Refusals, scan_ids: Collection[str], refused: Mapping[str, ScanError]) -> Refusals:
    """Return the refusals of ``scan_ids`` as they are now, and those of all other scans as they were."""

    def join(earlier: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
        left = {scan_id: text for scan_id, text in earlier.items() if scan_id not in scan_ids}
        return dict(sorted({**left, **now}.items()))  # whatever part was the last

    codes = {scan_id: error.code.value for scan_id, error in refused.items()}
    return Refusals(join(before.refused, reasons(refused)), join(before.codes, codes))
