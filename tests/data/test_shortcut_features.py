"""What is measured outside the lungs, on scans whose every pixel is known."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cnr_iemn.ct.io.acquisition import Acquisition
from cnr_iemn.data.shortcut_features import shortcuts
from cnr_iemn.data.slice_store import PixelSettings, SliceStore, StoredScan
from cnr_iemn.utils.atomic_io import json_text


def write(folder: Path, findings: tuple[str, ...], spacing: tuple[float, float, float]) -> None:
    """Border 50 and within it 30, lungs 100 in the upper half, 10 between."""
    grey = np.full((9, 16, 16), 10, dtype=np.uint8)
    lungs = np.zeros_like(grey)
    lungs[:, 2:8, 2:14] = 1
    grey[lungs == 1] = 100
    for k, value in ((1, 30), (0, 50)):
        grey[:, [k, -1 - k]] = value
        grey[:, :, [k, -1 - k]] = value
    folder.mkdir()
    np.save(folder / "grey.npy", grey)
    np.save(folder / "lungs.npy", np.packbits(lungs, axis=-1))
    scan = StoredScan(folder.name, 9, 16, spacing, tuple(range(9)), 4.5, findings, True, "", "")
    (folder / "scan.json").write_text(json.dumps(asdict(scan)))


def test_every_column_is_what_it_says(tmp_path: Path) -> None:
    write(
        tmp_path / "a",
        ("gap of 3.5 mm", "mask in doubt", "120 ml of dense tissue at the pleura count as lung"),
        (1.5, 0.7, 0.7),
    )
    write(tmp_path / "b", ("gap of 10 mm",), (5.0, 0.8, 0.8))
    table = shortcuts(SliceStore(tmp_path, PixelSettings()), ["a", "b"])
    assert table.index.tolist() == ["a", "b"]
    assert (table["slices"] == 9).all()
    assert (table["step, mm"].tolist(), table["lung litres"].tolist()) == ([1.5, 5.0], [4.5, 4.5])
    border = 60 * 50 + 52 * 30  # pixels of the outer ring, and of the one within
    np.testing.assert_allclose(table["border grey"], border / 112)
    outside = (border + (256 - 112 - 72) * 10) / (256 - 72)
    np.testing.assert_allclose(table["grey outside the lungs"], outside)
    assert table["finding: gap of # mm"].tolist() == [1, 1]
    assert not any("pleura" in name for name in table)
    assert table["finding: mask in doubt"].tolist() == [1, 0]


def test_how_a_scan_was_taken_is_known_or_missing_never_0(tmp_path: Path) -> None:
    """Six scans of one kernel, four of another, of which two do not say their voltage; one of no DICOM; an old one."""
    kernels = ["aa"] * 6 + ["bb"] * 4 + [None, None]
    for k, kernel in enumerate(kernels):
        write(tmp_path / f"s{k:02d}", (), (1.5, 0.7, 0.7))
        taken = Acquisition(kernel, "m", "n", "1.2", kvp=math.nan if k in (8, 9) else 120.0, bits_stored=12.0)
        source = {"files": "", "acquisition": asdict(taken if kernel else Acquisition())}
        if k == 11:
            del source["acquisition"]
        (tmp_path / f"s{k:02d}" / "source.json").write_text(json_text(source))
    table = shortcuts(SliceStore(tmp_path, PixelSettings()), [f"s{k:02d}" for k in range(12)])
    expected = [1.0] * 6 + [0.0] * 4 + [math.nan] * 2
    np.testing.assert_array_equal(table["kernel aa"], expected)
    assert "kernel bb" not in table  # of too few scans
    np.testing.assert_array_equal(table["transfer syntax 1.2"], [1.0] * 10 + [math.nan] * 2)
    np.testing.assert_array_equal(table["tube voltage, kV"], [120.0] * 8 + [math.nan] * 4)
    assert table["tube current, mA"].isna().all()
