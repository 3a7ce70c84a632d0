"""Memory grows neither with the cohort nor with the epochs: the store is mapped, and pages are released after use."""

import errno
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import open_memmap

from cnr_iemn.data.slice_store import PixelSettings, SliceStore, StoredScan, read_slices
from cnr_iemn.errors import StoreError

pytestmark = pytest.mark.slow

SIZE, SLICES = 448, 15  # few slices, and large: a slice costs time, a byte memory
PIXELS = SIZE * SIZE * SLICES

READS = f"""
import sys
from pathlib import Path
from resource import RLIMIT_NOFILE, RUSAGE_SELF, getrlimit, getrusage, setrlimit

import numpy as np

from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.stage1.training.lightning_module import process_bytes
from cnr_iemn.config.schema.settings import AugmentationSettings
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset, SliceTable

setrlimit(RLIMIT_NOFILE, (256, getrlimit(RLIMIT_NOFILE)[1]))  # as on macOS; 150 scans have 300 files
store = SliceStore(Path(sys.argv[1]), PixelSettings())
counts = {{f"scan{{k}}": {SLICES} for k in range(int(sys.argv[2]))}}
table = SliceTable.of(counts, {{scan: np.arange({SLICES}) % 3 for scan in counts}})
items = balance(table.label, classes=("a", "b", "c"), copies={{}}, augment="all_classes")
data = SliceDataset(store, table, image_size=32, items=items, augmentation=AugmentationSettings())
loader = SliceDataModule(data, None, batch_size=30, workers=0, seed=0).train_dataloader()
for epoch in range(2):
    for batch in loader:
        pass
    print(process_bytes())
print(getrusage(RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """150 scans of 3 MB and their masks, in files with holes: they take memory when they are read, but no disk."""
    store = SliceStore(tmp_path_factory.mktemp("store"), PixelSettings())
    for k in range(150):
        folder = store.root / f"scan{k}"
        folder.mkdir()
        for name, columns in (("grey", SIZE), ("lungs", SIZE // 8)):
            open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(SLICES, SIZE, columns)).flush()
        scan = StoredScan(folder.name, SLICES, SIZE, (1, 1, 1), (0.0,) * SLICES, 5.0, (), True, "", "")
        (folder / "scan.json").write_text(json.dumps(asdict(scan)))
    return store


def memory(store: SliceStore, scans: int) -> tuple[int, int, int]:
    """Return the bytes of a process that reads two epochs: after each of them, and at the most."""
    words = [sys.executable, "-c", READS, str(store.root), str(scans)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    first, second, peak = map(int, done.stdout.split())
    return first, second, peak


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux tells it")
def test_ten_times_the_scans_take_no_more_memory(store: SliceStore) -> None:
    few, many = memory(store, 15), memory(store, 150)
    assert many[2] < 1.2 * few[2]
    assert many[2] - few[2] < 0.1 * 135 * PIXELS  # of what the further scans hold
    assert many[1] < 1.02 * many[0]


def test_the_limit_of_open_files_is_reported_with_its_remedy(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(
        StoreError, match=r"grey\.npy cannot be opened: this process has reached its limit of open files.*ulimit -n"
    ):
        store.grey("scan0")


def test_a_slice_is_a_copy_and_the_scan_can_be_read_again(store: SliceStore, tmp_path: Path) -> None:
    values = np.arange(4 * 64 * 64, dtype=np.uint8).reshape(4, 64, 64)
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    first = read_slices(mapped, 1)
    assert first.flags.owndata
    for index in (0, 1, slice(None)):
        np.testing.assert_array_equal(read_slices(mapped, index), values[index])
    np.testing.assert_array_equal(read_slices(values, 2), values[2])
