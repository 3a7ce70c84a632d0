"""New scans that are refused, or answered with a warning, for what their lungs and slices are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.acquisition import UNKNOWN
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.engine import new_input
from cnr_iemn.engine.new_input import checked, output_name, prepare_new
from cnr_iemn.errors import ConfigurationError, ScanError
from tests.documented import documented


def prepared(areas: list[int], *, litres: float = 4.0, step: float = 2.0) -> PreparedScan:
    """A scan whose slices hold so many pixels of lung each, of 100."""
    lungs = np.zeros((len(areas), 10, 10), bool)
    for mask, area in zip(lungs, areas, strict=True):
        mask.reshape(-1)[:area] = True
    z_mm = -step * np.arange(len(areas))
    return PreparedScan(np.zeros(lungs.shape, np.uint8), lungs, (step, 1, 1), z_mm, litres, ("a",), False, "5", UNKNOWN)


WHOLE = [0, 5, *[50] * 26, 5, 0]


DOUBTS = [
    (prepared(WHOLE), []),
    (prepared([12, *WHOLE[1:]]), []),  # 24% of the largest
    (prepared([13, *WHOLE[1:]]), ["lungs may be cut: the top slice holds 26% of the largest lung area"]),
    (prepared([*WHOLE, 40]), ["lungs may be cut: the lowest slice holds 80% of the largest lung area"]),
    (prepared([50] * 12 + [0] * 8), ["lungs may be cut: the top slice holds 100% of the largest lung area"]),
    (prepared([0, *[50] * 12, *[0] * 8]), ["lung in 57% of the slices only: not a chest alone"]),
    (prepared(WHOLE, step=5.0), []),
    (prepared(WHOLE, step=5.5), ["thick slices: 5.5 mm apart, small lesions may lie between"]),
    (prepared(WHOLE, step=float("nan"), litres=float("nan")), []),
]


@pytest.mark.parametrize(("scan", "doubts"), DOUBTS)
def test_doubts_become_findings(scan: PreparedScan, doubts: list[str]) -> None:
    found = checked(scan, "P1")
    assert found.findings == ("a", *(f"answer in doubt: {doubt}" for doubt in doubts))
    assert replace(found, findings=scan.findings) == scan


def test_every_documented_doubt_is_told() -> None:
    nothing = segment_lungs(np.zeros((3, 32, 32), np.int16), (1.0, 1.0, 1.0)).findings
    told = [*nothing, *(finding for scan, _ in DOUBTS for finding in checked(scan, "P1").findings)]
    rows = [row[1] for row in documented("the finding begins with")]
    assert rows
    for beginning in rows:
        assert any(finding.startswith(beginning) for finding in told), beginning


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (prepared([50] * 19), "P1: 19 slices, at least 20 are needed"),
        (prepared([0] * 30, litres=0.0), r"P1: no lungs found \(0.00 litres, at least 0.5 are needed\)"),
        (prepared(WHOLE, litres=0.49), r"P1: no lungs found \(0.49 litres"),
        (prepared([0] * 30, litres=float("nan")), "P1: no lungs found"),
    ],
)
def test_what_is_not_answered(scan: PreparedScan, reason: str) -> None:
    with pytest.raises(ScanError, match=f"^{reason}"):
        checked(scan, "P1")
    assert checked(prepared([0, *[50] * 18, 0], litres=0.5), "P1").findings == ("a",)


def test_a_fault_of_the_program_costs_one_scan_and_tells_none_of_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Doe^Jane")

    monkeypatch.setattr(new_input, "prepare_scan", fails)
    with pytest.raises(ScanError) as caught:
        prepare_new(PixelSettings(), False, ("P1", Path("x")))
    assert str(caught.value).startswith("P1: the program failed on it (ZeroDivisionError in test_new_input.py, line ")
    assert caught.value.__cause__ is None

    def misconfigured(*_: object, **__: object) -> None:
        raise ConfigurationError("window")

    monkeypatch.setattr(new_input, "prepare_scan", misconfigured)
    with pytest.raises(ConfigurationError):  # of all scans
        prepare_new(PixelSettings(), False, ("P1", Path("x")))


def test_the_default_folder_is_not_named_after_what_is_not_to_be_told(tmp_path: Path) -> None:
    assert output_name(tmp_path / "Doe", anonymous=False) == "Doe"
    assert output_name(tmp_path / "Doe", anonymous=True) == "anonymised"
