"""A store on a bad disk: found by prepare.py and made again; training checks shapes alone."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from tests.ct.conftest import make_slices, write
from tests.pipeline import entry_point

SETTINGS = PixelSettings(size=32)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two scans of four slices."""
    for name in ("P1", "P2"):
        write(tmp_path / "scans" / name, make_slices(4, series=f"1.{name[1:]}"))
    scans = tuple(ScanRecord(name, name, tmp_path / "scans" / name, "CAP") for name in ("P1", "P2"))
    return Cohort("two", tmp_path / "scans", SPGC_CLASSES, scans)


def _contents(store: SliceStore) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(store.root.rglob("*.*")) if path.name != ".lock"}


def _flip(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = position % len(data)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


DAMAGE = {
    "a pixel": ("grey.npy", _flip(1000)),
    "the last pixel": ("grey.npy", _flip(-1)),
    "a mask's bit": ("lungs.npy", _flip(300)),
    "the head of an array": ("grey.npy", _flip(1)),
    "an array cut short": ("lungs.npy", lambda data: data[:-1]),
    "an empty array": ("grey.npy", lambda data: b""),
    "no JSON": ("scan.json", lambda data: data[:-20]),
    "a key lost": ("scan.json", lambda data: data.replace(b"grey_sha256", b"grey_sha255")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_scan_is_told_and_made_again(
    kind: str, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, change = DAMAGE[kind]
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    whole = _contents(store)
    times = {path: path.stat().st_mtime_ns for path in whole}
    path = store.root / "P2" / name
    path.write_bytes(change(path.read_bytes()))
    damaged = _contents(store)
    assert damaged != whole
    prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")  # as training does
    assert _contents(store) == damaged
    assert capsys.readouterr().out == ""
    made: list[str] = []

    def watch(done, total):
        for scan_id in done:
            made.append(scan_id)
            yield scan_id

    _, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache", verify=True, progress=watch)
    assert failures == {}
    assert made == ["P2"]
    assert capsys.readouterr().err == f"{path} is damaged (its checksum differs); the scan is made again.\n"
    assert _contents(store) == whole
    first = store.root / "P1" / "grey.npy"
    assert first.stat().st_mtime_ns == times[first]


def test_prepare_verifies(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.csv").write_text("scan_id,path,class\nP1,scans/P1,Normal\nP2,scans/P2,CAP\n")
    arguments = ["data=manifest", f"data.csv={tmp_path / 'two.csv'}", f"ingest.cache={tmp_path / 'cache'}"]
    for damaged in (False, True):
        if damaged:
            (path,) = (tmp_path / "cache").rglob("P2/lungs.npy")
            path.write_bytes(_flip(-1)(path.read_bytes()))
        assert entry_point("prepare")([*arguments, "ingest.workers=0"]) == 0
        assert ("P2/lungs.npy is damaged" in capsys.readouterr().err) == damaged


def test_a_whole_store_is_left_alone(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    prepare_store(cohort, SETTINGS, cache=tmp_path / "cache", verify=True, workers=2)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == times
    assert capsys.readouterr().out == ""


def test_a_damaged_scan_that_cannot_be_made_again_is_refused_from_then_on(cohort: Cohort, tmp_path: Path) -> None:
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    path = store.root / "P2" / "grey.npy"
    path.write_bytes(_flip(-1)(path.read_bytes()))
    source = tmp_path / "scans" / "P2" / "IM0002.dcm"
    times = source.stat()
    data = source.read_bytes()
    source.write_bytes(data[:-8192] + bytes(8192))  # the scan itself has suffered, at the same size and time
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    for verify in (True, False):
        _, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache", verify=verify)
        assert list(failures) == ["P2"]
        assert "IM0002.dcm: every pixel is 0" in str(failures["P2"])
    assert np.load(path).shape == (4, 32, 32)
