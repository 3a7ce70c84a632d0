"""Which trained studies this version of the program answers with."""

from pathlib import Path

import pytest

from tests.pipeline import MODELS, entry_point


def test_a_study_whose_slices_were_prepared_otherwise_does_not_answer(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnr_iemn.data.slice_store.PIXEL_VERSION", 0)
    words = [f"runs={tiny_study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]"]
    assert entry_point("predict")([f"input={tiny_study}", *words, f"output={tmp_path / 'answers'}"]) == 2
    assert "was trained on slices that another version of the program prepared" in capsys.readouterr().err
    assert entry_point("export")([*words, f"output={tmp_path / 'bundle'}"]) == 2
    assert "another version of the program" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
