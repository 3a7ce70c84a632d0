"""The Python lines of README, as they are printed there, on a scan and a study of the tests."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import MODELS, ROOT

pytestmark = pytest.mark.slow


def test_the_python_lines_of_readme(tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = f'load_ensemble("tiny", name="{"+".join(MODELS)}")'
    assert code.count('load_ensemble("demo")') == 1
    os.symlink(tiny_study / "runs", tmp_path / "runs")
    (scan,) = tiny_study.glob("cache/phantom-*/COVID-19 subjects/P005")
    (tmp_path / "scans").mkdir()
    os.symlink(scan, tmp_path / "scans" / "a17")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code.replace('load_ensemble("demo")', named), names)
    volume, lungs, results = names["scan"], names["lungs"], names["results"]
    assert volume.hu.dtype == np.int16  # type: ignore[attr-defined]
    assert lungs.mask.shape == volume.hu.shape  # type: ignore[attr-defined]
    assert len(results) == 1  # type: ignore[arg-type]
    assert sum(results[0].prediction["probabilities"].values()) == pytest.approx(1)  # type: ignore[index]
