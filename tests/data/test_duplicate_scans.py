"""A scan under two names is refused where it would be learnt and then recognised."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cnr_iemn.data.slice_store import PixelSettings, SliceStore, StoredScan
from cnr_iemn.data.splits import require_distinct
from cnr_iemn.errors import CohortError


@pytest.fixture
def store(tmp_path: Path) -> SliceStore:
    """Three scans, of which the last has the pixels of the first."""
    for scan_id, digest in {"a": "1", "b": "2", "c": "1"}.items():
        (tmp_path / scan_id).mkdir()
        scan = StoredScan(scan_id, 2, 8, (1, 1, 1), (1, 0), 5.0, (), True, digest, "")
        (tmp_path / scan_id / "scan.json").write_text(json.dumps(asdict(scan)))
    return SliceStore(tmp_path, PixelSettings())


def test_twins_on_two_sides_are_named_with_the_way_out(store: SliceStore) -> None:
    message = r"same pixels.*\n  a \(training\), c \(validation\)\n.*data\.exclude=\[c\]"
    with pytest.raises(CohortError, match=message):
        require_distinct(store, {"a": "training", "b": "training", "c": "validation"})


def test_twins_on_one_side_and_different_scans_are_not(store: SliceStore) -> None:
    require_distinct(store, {"a": "training", "b": "validation", "c": "training"})
