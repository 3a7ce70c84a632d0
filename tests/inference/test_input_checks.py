"""New scans that are refused, or predicted with a warning, because of their lungs or slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.ct.io.acquisition import UNKNOWN
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ConfigurationError, RunError, ScanError
from cnr_iemn.inference import input_checks
from cnr_iemn.inference.input_checks import check_prepared, output_folder, output_name, prepare_new_scan
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
    (prepared([0, *[50] * 12, *[0] * 8]), ["lung in only 57% of the slices: not a chest alone"]),
    (prepared(WHOLE, step=5.0), []),
    (prepared(WHOLE, step=5.5), ["thick slices: 5.5 mm apart, small lesions may lie between"]),
    (prepared(WHOLE, step=float("nan"), litres=float("nan")), []),
]


@pytest.mark.parametrize(("scan", "doubts"), DOUBTS)
def test_doubts_become_findings(scan: PreparedScan, doubts: list[str]) -> None:
    result = check_prepared(scan, "P1")
    assert result.findings == ("a", *(f"prediction in doubt: {doubt}" for doubt in doubts))
    assert replace(result, findings=scan.findings) == scan


def test_every_documented_doubt_is_reported() -> None:
    nothing = segment_lungs(np.zeros((3, 32, 32), np.int16), (1.0, 1.0, 1.0)).findings
    all_findings = [*nothing, *(finding for scan, _ in DOUBTS for finding in check_prepared(scan, "P1").findings)]
    rows = [row[1] for row in documented("the finding begins with")]
    assert rows
    for beginning in rows:
        assert any(finding.startswith(beginning) for finding in all_findings), beginning


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (prepared([50] * 19), "P1: 19 slices, at least 20 are needed"),
        (prepared([0] * 30, litres=0.0), r"P1: no lungs found \(0.00 litres, at least 0.5 are needed\)"),
        (prepared(WHOLE, litres=0.49), r"P1: no lungs found \(0.49 litres"),
        (prepared([0] * 30, litres=float("nan")), "P1: no lungs found"),
    ],
)
def test_scans_without_a_prediction(scan: PreparedScan, reason: str) -> None:
    with pytest.raises(ScanError, match=f"^{reason}"):
        check_prepared(scan, "P1")
    assert check_prepared(prepared([0, *[50] * 18, 0], litres=0.5), "P1").findings == ("a",)


def test_an_internal_error_costs_one_scan_and_its_message_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Doe^Jane")

    monkeypatch.setattr(input_checks, "prepare_scan", fails)
    with pytest.raises(ScanError) as caught:
        prepare_new_scan(PixelSettings(), False, ("P1", Path("x")))
    reason = "P1: the program failed on it (ZeroDivisionError in test_input_checks.py, line "
    assert str(caught.value).startswith(reason)
    assert caught.value.__cause__ is None

    def misconfigured(*_: object, **__: object) -> None:
        raise ConfigurationError("window")

    monkeypatch.setattr(input_checks, "prepare_scan", misconfigured)
    with pytest.raises(ConfigurationError):  # of all scans
        prepare_new_scan(PixelSettings(), False, ("P1", Path("x")))


def test_the_default_folder_does_not_reveal_a_patient_s_name(tmp_path: Path) -> None:
    assert output_name(tmp_path / "Doe", anonymous=False) == "Doe"
    assert output_name(tmp_path / "Doe", anonymous=True) == "anonymised"


def test_a_damaged_input_marker_matches_no_input(tmp_path: Path) -> None:
    folder = output_folder(None, tmp_path, tmp_path / "CT", anonymous=False)
    folder.mkdir()
    (folder / "predictions.json").write_text("{}")
    (tmp_path / ".CT.input").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="holds the predictions for another input of this name"):
        output_folder(None, tmp_path, tmp_path / "CT", anonymous=False)
