"""Links from the report to the pages of single scans that predict.py has written with the same fit of stage 2."""

import logging
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from typing_extensions import TypedDict

from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import CnrIemnError
from cnr_iemn.stage2.new_scans import read_new_scans
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.json_io import read_json

log = logging.getLogger(__name__)


class _Page(TypedDict):
    scan: str
    page: str | None


class _Document(TypedDict):
    scans: list[_Page]


def page_links(folder: Path, store: SliceStore, scan_ids: Iterable[str], *, method_file: str) -> dict[str, str]:
    """Return the relative address of each scan's page, as seen from the ensemble's folder.

    A page is linked only if the ensemble's stage 2 made it and its scan has the pixels of the scan in the store: names
    of new scans come from their files, and may be others' names.

    Args:
        folder: The ensemble's, ``<study>/ensembles/<name>``.
        store: Of the study's slices.
        scan_ids: The scans to link.
        method_file: Name of the file of the fitted stage-2 method.
    """
    method = folder / method_file
    if not method.is_file():
        return {}
    pages: dict[str, str] = {}
    for path in sorted((folder.parent.parent / "predictions").glob("*/predictions.parquet")):
        pages |= _pages_by_pixels(path, sha256_of_file(method))
    pixels = {scan_id: store.scan(scan_id).grey_sha256 for scan_id in scan_ids}
    return {scan_id: pages[digest] for scan_id, digest in pixels.items() if digest in pages}


def _pages_by_pixels(path: Path, method_sha256: str) -> dict[str, str]:
    """Return the address of each page beside predictions.parquet, by the SHA-256 of its scan's grey slices."""
    try:
        new = read_new_scans(path)
        if new.metadata.method_sha256 != method_sha256:
            return {}
        document = read_json(path.with_name("predictions.json"), _Document, again="", extra="ignore")
    except CnrIemnError as error:
        log.warning("%s; the report links no page of %s.", error, path.parent)
        return {}
    addresses = {}
    for scan in document["scans"]:
        name = scan["page"]
        if name and scan["scan"] in new.scans and (path.parent / name).is_file():
            digest = new.scans[scan["scan"]].grey_sha256
            addresses[digest] = f"../../predictions/{quote(path.parent.name)}/{quote(name)}"
    return addresses
