"""The store remembers why scans were refused, until they can be read."""

from pathlib import Path

import pytest

from cnr_iemn.data.refusals import store_refusals, stored_refusals
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import StoreError


def test_reasons_stay_while_scans_are_left_out_and_go_once_they_are_read(tmp_path: Path) -> None:
    store = SliceStore(tmp_path, PixelSettings())
    store_refusals(store, {"a", "b", "c"}, {})
    assert not (tmp_path / "refusals.json").exists()
    store_refusals(store, {"a", "b", "c"}, {"b": "b: cut", "c": "c: gap"})
    store_refusals(store, {"a"}, {})  # with data.exclude=[b,c]
    assert stored_refusals(store) == {"b": "b: cut", "c": "c: gap"}
    store_refusals(store, {"a", "b"}, {})  # b is repaired
    assert stored_refusals(store) == {"c": "c: gap"}
    store_refusals(store, {"a", "b", "c"}, {"c": "c: still a gap"})
    assert stored_refusals(store) == {"c": "c: still a gap"}


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "refusals.json").write_text('{"refused": 3}')
    with pytest.raises(StoreError, match=r"refusals\.json"):
        stored_refusals(SliceStore(tmp_path, PixelSettings()))
