"""benchmarks/robustness.py measures every perturbation that the code has, and says which scans would be refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import robustness
from benchmarks.single_lesions import to_volume
from cnr_iemn.ct.perturbations import PERTURBATIONS, THICK
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.evaluation.ablation import LUNGS, OUTSIDE
from cnr_iemn.phantom.renderer import render_scan
from cnr_iemn.phantom.scan_spec import make_scan_spec


class Brightness:
    """Stands for a study: the class of a slice follows from its mean grey value."""

    class ensemble:  # noqa: N801 - an attribute of Study
        pixels = PixelSettings(size=48, lungs="pleura")

    def predict(self, scan: PreparedScan, alter: Any = None) -> robustness.ScanPrediction:
        grey = scan.grey.mean(axis=(1, 2))
        share = float(grey.mean()) / 255 if alter is None else 0.5
        probabilities = np.array([1 - share, share])
        return robustness.ScanPrediction(
            (grey > 100).astype(np.int64)[None], np.array([100 * share]), probabilities, scan.lung_litres
        )


def test_every_perturbation_has_a_row_and_refusals_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {n: make_scan_spec(0, "Normal", n_slices=(n, n)) for n in (24, 44)}
    volumes = {n: to_volume(render_scan(spec, rows=64, lesions=())) for n, spec in specs.items()}
    monkeypatch.setattr(robustness, "read_scan", lambda path: volumes[int(path.name)])
    paths = {str(n): Path(str(n)) for n in volumes}
    rows = {name: change.figures() for name, change in robustness.measure_changes(Brightness(), paths).items()}  # type: ignore[arg-type]
    assert set(rows) == {*PERTURBATIONS, LUNGS, OUTSIDE}
    assert len(PERTURBATIONS) == 10
    assert all(row["scans"] == 2 for row in rows.values())
    assert rows.pop(THICK)["refused"] == 1  # 12 slices are too few, 22 are not
    assert all(row["refused"] == 0 for row in rows.values())
    assert all(rows[name]["probability"] > 0 for name in ("+10 HU", "-10 HU", "window 100 HU wider", "sharp kernel"))
