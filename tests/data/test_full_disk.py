"""A disk that is really full: it is reported, what is whole stays, and nothing half-written is ever read."""

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import StoreError
from cnr_iemn.phantom.cohort_writer import write_cohort
from tests.pipeline import entry_point

pytestmark = pytest.mark.slow

SETTINGS = PixelSettings(size=48)  # about 50 kB of grey and 6 kB of mask a scan


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Three scans of 64 x 64 pixels."""
    root = tmp_path_factory.mktemp("phantom") / "tree"
    write_cohort(root, scans=dict.fromkeys(SPGC_CLASSES, 1), labelled={}, seed=3, rows=64, n_slices=(20, 22))
    scans = tuple(ScanRecord(path.name, path.name, path, "CAP") for path in sorted(root.glob("* subjects/*")))
    return Cohort("three", root, SPGC_CLASSES, scans)


class Disk:
    """A file system in memory. ``path``: where it is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kilobytes: int, *how: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", ",".join((*how, f"size={kilobytes}k")), "tmpfs", str(self.path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    yield Disk(path)
    if path.is_mount():
        subprocess.run(["umount", str(path)], check=True)


def _whole_scans(store: SliceStore) -> list[str]:
    """Return the scans in the store, each of which must be as its own record says."""
    there = [path.name for path in store.root.iterdir() if path.is_dir()]
    for scan_id in there:
        record = store.scan(scan_id)
        for name, expected in (("grey", record.grey_sha256), ("lungs", record.lungs_sha256)):
            array = np.load(store.root / scan_id / f"{name}.npy")
            assert hashlib.sha256(array.tobytes()).hexdigest() == expected
    return there


@pytest.mark.parametrize(
    ("kilobytes", "workers"), [(4, 0), (12, 0), (40, 0), (64, 0), (80, 0), (100, 0), (136, 0), (160, 0), (80, 2)]
)
def test_a_full_disk_is_reported_and_the_next_run_goes_on(
    kilobytes: int, workers: int, cohort: Cohort, disk: Disk, tmp_path: Path
) -> None:
    disk.resize(kilobytes)
    with pytest.raises(StoreError) as caught:
        prepare_store(cohort, SETTINGS, cache=disk.path, workers=workers)
    assert "No space left on device" in str(caught.value) or "disk full?" in str(caught.value)  # numpy keeps no reason
    assert "another ingest.cache" in str(caught.value)
    store = SliceStore.locate(cohort, SETTINGS, cache=disk.path)
    if store.root.is_dir():
        assert len(_whole_scans(store)) < 3
    disk.resize(1000, "remount")
    store, failures = prepare_store(cohort, SETTINGS, cache=disk.path, workers=workers)
    assert failures == {}
    assert len(_whole_scans(store)) == 3
    undisturbed, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "undisturbed")
    for path in undisturbed.root.rglob("*.*"):
        if path.is_file() and path.name != ".lock":
            assert (store.root / path.relative_to(undisturbed.root)).read_bytes() == path.read_bytes()


def test_a_disk_with_no_room_for_the_report_is_reported(
    cohort: Cohort, disk: Disk, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f"{scan.scan_id},{scan.source},{kind}"
        for scan, kind in zip(cohort.scans, ("sick", "healthy", "sick"), strict=True)
    ]
    manifest = tmp_path / "scans.csv"
    manifest.write_text("\n".join(["scan_id,path,class", *lines]) + "\n")
    words = ["data=manifest", f"data.csv={manifest}", f"ingest.cache={disk.path}", "ingest.size=48", "ingest.workers=0"]
    disk.resize(240)  # the scans take about 200 kB
    assert entry_point("prepare")(words) != 0
    output = capfd.readouterr()
    assert "cannot be written (No space left on device). Free some space and run again" in output.err
    assert "Traceback" not in output.err
    assert not list(disk.path.rglob("report.html"))
    disk.resize(2000, "remount")
    assert entry_point("prepare")(words) == 0


@pytest.mark.parametrize("size", [100, 3_000, 30_000])
def test_files_that_may_not_grow_are_reported(size: int, cohort: Cohort, tmp_path: Path) -> None:
    """As with a quota, but for anyone: the system refuses to write more than so many bytes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written \((File too large|disk full\?)"):
            prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert failures == {}
    assert len(_whole_scans(store)) == 3
    assert json.loads((store.root / "settings.json").read_text())["size"] == 48
