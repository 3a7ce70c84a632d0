"""DICOM output is asked for wrongly: refused before any work, and whether or not highdicom is installed."""

from pathlib import Path

import pytest

from tests.pipeline import entry_point


def test_dicom_is_refused_before_any_work_unless_it_may_identify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["input=/nowhere", "study=x", f"output={tmp_path / 'out'}"]
    for wrong, said in (
        (["dicom=true"], "Add identify=true"),
        (["identify=true"], "identify=true needs DICOM output"),
        (["segmentation=true"], "segmentation=true needs DICOM output"),
    ):
        assert entry_point("predict")([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnr_iemn.utils.packages.find_spec", lambda _: None)
    assert entry_point("predict")(["input=/nowhere", "study=x", "dicom=true", "identify=true"]) == 2
    assert "pip install '.[dicom]'" in capsys.readouterr().err
