"""A scan on which the program itself fails, or of lengths that no CT has, costs that scan and no other."""

from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.ct.lungs.morphology import label, large_components
from cnr_iemn.data import build_store
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ConfigurationError
from tests.ct.conftest import make_slices, write

SETTINGS = PixelSettings(size=48)
NAMES = ("one", "two", "three")


def cohort_of(root: Path, **pixel_mm: float) -> Cohort:
    """Three scans, some with pixels of another size."""
    scans = []
    for name in NAMES:
        slices = make_slices()
        for ds in slices:
            ds.PixelSpacing = [pixel_mm.get(name, 2.5)] * 2
        scans.append(ScanRecord(name, name, write(root / name, slices), "CAP"))
    return Cohort("three", root, ("CAP", "Normal"), tuple(scans))


@pytest.mark.parametrize("error", [ValueError("P-Name"), IndexError(), ZeroDivisionError(), AssertionError()])
def test_a_fault_costs_its_scan(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = build_store.prepare_scan

    def faulty(source: Path, **words: object) -> object:
        if source.name == "two":
            raise error
        return read(source, **words)

    monkeypatch.setattr(build_store, "prepare_scan", faulty)
    store, failures = prepare_store(cohort_of(tmp_path / "scans"), SETTINGS, cache=tmp_path / "cache")
    assert failures.keys() == {"two"}
    assert str(failures["two"]).startswith(f"two: the program failed on it ({type(error).__name__} in ")
    assert "Scan refused; other scans continue. Please report this fault." in str(failures["two"])
    assert "P-Name" not in str(failures["two"])
    assert len(store.grey("three")) == 24


def test_a_wrong_setting_stops_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lungs=unet is unknown"):
        prepare_store(cohort_of(tmp_path / "scans"), PixelSettings(lungs="unet"), cache=tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_of_no_ct_cost_their_scan(workers: int, tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "scans", two=0.001)
    _, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache", workers=workers)
    assert failures.keys() == {"two"}
    assert "two/IM0000.dcm: pixels of 0.001 x 0.001 mm" in str(failures["two"])


def test_labels_of_nothing() -> None:
    for shape in ((0, 4, 4), (3, 0, 4), (2, 2, 0)):
        _, counts = label(np.zeros(shape, bool))
        assert counts.tolist() == [0]
        assert large_components(np.zeros(shape, bool), 1).shape == shape
