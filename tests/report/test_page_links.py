"""The report links a scan's page only where this booster made it from the very same pixels."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.report.page_links import page_links
from cnr_iemn.schemas import NetworkId, NewScansMetadata
from cnr_iemn.stage2.new_scans import NewScan, NewScans, write_new_scans


class Store:
    def scan(self, scan_id: str) -> Any:
        return type("Scan", (), {"grey_sha256": f"pixels of {scan_id}"})()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ensemble, and predictions of three scans: a known one under another name, an unknown one, one without page."""
    folder, predictions = tmp_path / "study" / "ensembles" / "all", tmp_path / "study" / "predictions" / "new scans"
    folder.mkdir(parents=True)
    predictions.mkdir(parents=True)
    (folder / "booster.ubj").write_bytes(b"booster")
    write_predictions(predictions, hashlib.sha256(b"booster").hexdigest())
    return folder


def write_predictions(folder: Path, booster: str) -> None:
    pixels = {"b/P 1": "pixels of P001", "P002": "of another scan", "P003": "pixels of P003"}
    values = np.full((1, 20, 3), 1 / 3, np.float32)
    scans = {name: NewScan(np.arange(20.0)[::-1], False, digest, values) for name, digest in pixels.items()}
    network = (NetworkId("resnext50", None, "ab" * 32),)
    metadata = NewScansMetadata("study", "all", SPGC_CLASSES, network, booster, {}, phantom=False)
    write_new_scans(folder / "predictions.parquet", NewScans(scans, metadata))
    pages = {"b/P 1": "b_P#1.html", "P002": "P002.html", "P003": None}
    document = {"schema_version": 2, "scans": [{"scan": name, "page": page} for name, page in pages.items()]}
    (folder / "predictions.json").write_text(json.dumps(document))
    for page in filter(None, pages.values()):
        (folder / page).touch()


def links(folder: Path) -> dict[str, str]:
    store: Any = Store()
    return page_links(folder, store, ["P001", "P002", "P003"], method_file="booster.ubj")


def test_a_page_is_found_by_its_pixels_and_its_address_is_quoted(folder: Path) -> None:
    assert links(folder) == {"P001": "../../predictions/new%20scans/b_P%231.html"}


def test_the_page_of_another_booster_is_not_linked(folder: Path) -> None:
    (folder / "booster.ubj").write_bytes(b"another")
    assert links(folder) == {}
    (folder / "booster.ubj").unlink()
    assert links(folder) == {}


def test_damaged_predictions_and_lost_pages_cost_only_their_links(folder: Path) -> None:
    predictions = folder.parent.parent / "predictions"
    (predictions / "damaged").mkdir()
    (predictions / "damaged" / "predictions.parquet").write_bytes(b"no parquet")
    assert set(links(folder)) == {"P001"}
    (predictions / "new scans" / "b_P#1.html").unlink()
    assert links(folder) == {}
