"""What is measured outside the lungs, on scans whose every pixel is known."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cnr_iemn.cohort.shortcuts import shortcuts
from cnr_iemn.cohort.store import PixelSettings, SliceStore, StoredScan


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
