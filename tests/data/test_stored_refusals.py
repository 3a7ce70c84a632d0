"""The store remembers why scans were refused, until they can be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnr_iemn.data.refusals import store_refusals, stored_refusals
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import RefusalCode, ScanError, StoreError
from tests.pipeline import ROOT


def refused(**reasons: str) -> dict[str, ScanError]:
    return {scan_id: ScanError(RefusalCode.MISSING_SLICES, f"{scan_id}: {why}") for scan_id, why in reasons.items()}


def test_reasons_stay_while_scans_are_left_out_and_go_once_they_are_read(tmp_path: Path) -> None:
    store = SliceStore(tmp_path, PixelSettings())
    store_refusals(store, {"a", "b", "c"}, {})
    assert not (tmp_path / "refusals.json").exists()
    store_refusals(store, {"a", "b", "c"}, refused(c="gap", b="cut"))
    store_refusals(store, {"a"}, {})  # with data.exclude=[b,c]
    assert stored_refusals(store) == {"b": "b: cut", "c": "c: gap"}
    store_refusals(store, {"a", "b"}, {})  # b is repaired
    assert stored_refusals(store) == {"c": "c: gap"}
    store_refusals(store, {"a", "b", "c"}, refused(c="still a gap"))
    document = json.loads((tmp_path / "refusals.json").read_text())
    assert document["refused"] == {"c": "c: still a gap"}
    assert document["codes"] == {"c": "missing-slices"}
    assert [path.name for path in tmp_path.iterdir()] == ["refusals.json"]


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "refusals.json").write_text('{"refused": 3}')
    with pytest.raises(StoreError, match=r"refusals\.json"):
        stored_refusals(SliceStore(tmp_path, PixelSettings()))


def test_a_store_that_can_only_be_read_will_do_where_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SliceStore(tmp_path, PixelSettings())
    store_refusals(store, {"a"}, refused(a="gap"))
    monkeypatch.setattr("cnr_iemn.data.refusals.exclusive", None)
    monkeypatch.setattr("cnr_iemn.data.refusals.write_text_atomic", None)
    store_refusals(store, {"a", "b"}, refused(a="gap"))


WRITER = """
import sys
from pathlib import Path
from cnr_iemn.data.refusals import store_refusals
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import RefusalCode, ScanError
store, part = SliceStore(Path(sys.argv[1]), PixelSettings()), sys.argv[2]
sys.stdin.read()  # until all parts are here
for k in range(40):
    scan = f"{part}-{k}"
    store_refusals(store, {scan}, {scan: ScanError(RefusalCode.MISSING_SLICES, f"{scan}: gap")})
"""


def test_parts_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", WRITER, str(tmp_path)], {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([*command, part], stdin=subprocess.PIPE, env=environment) for part in "abc"]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    reasons = stored_refusals(SliceStore(tmp_path, PixelSettings()))
    assert list(reasons) == sorted(f"{part}-{k}" for part in "abc" for k in range(40))
    assert [path.name for path in tmp_path.iterdir()] == ["refusals.json"]
