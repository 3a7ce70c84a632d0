"""refusals.json of a slice store: the scans that could not be read, and why, until they can be."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import StoreError
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic
from cnr_iemn.utils.json_io import read_json

FILE = "refusals.json"


@dataclass(frozen=True)
class Refusals:
    """``refused``: reason by scan_id, also of scans that were left out since."""

    refused: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def stored_refusals(store: SliceStore) -> dict[str, str]:
    """Return the reasons by scan_id. Raises StoreError where the file is damaged."""
    path = store.root / FILE
    if not path.is_file():  # no scan was refused, or an earlier version of the program prepared them
        return {}
    return read_json(path, Refusals, again=f"Delete {path} and run prepare.py again.", refusal=StoreError).refused


def store_refusals(store: SliceStore, scan_ids: Collection[str], refused: Mapping[str, str]) -> None:
    """Write the reasons of scans that are refused, and keep those of scans that the cohort leaves out.

    Args:
        store: Where the others are prepared.
        scan_ids: Of all scans that were to be prepared.
        refused: Reason by scan_id.

    Raises:
        StoreError: The store cannot be written.
    """
    before = stored_refusals(store)
    now = {scan_id: reason for scan_id, reason in before.items() if scan_id not in scan_ids} | dict(refused)
    if now == before:
        return
    path: Path = store.root / FILE
    try:
        write_text_atomic(path, json_text(asdict(Refusals(now))))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}). Free some space or give another ingest.cache."
        ) from error
