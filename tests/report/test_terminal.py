"""The terminal: a study is one screen, and no path or name in a text is read as rich's markup."""

import ast
import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from cnr_iemn.constants import PAPER_BACKBONES
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report import terminal
from cnr_iemn.report.headline import headline
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.report.tables.results import result_tables
from cnr_iemn.stage2.methods.registry import stage2_methods
from tests.builders import make_predictions, make_scans, make_summaries

ROOT = Path(__file__).resolve().parents[2]


def plain_texts(source: str) -> list[ast.Call]:
    """Return the calls of a console's print whose first argument is a string literal or an f-string."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    printed = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "print"]
    return [call for call in printed if isinstance(call.args[0], ast.JoinedStr | ast.IfExp | ast.Constant)]


def test_every_text_of_a_console_is_printed_without_markup() -> None:
    for path in [*ROOT.glob("*.py"), *(ROOT / "cnr_iemn").rglob("*.py")]:
        for call in plain_texts(path.read_text(encoding="utf-8")):
            switches = {word.arg: word.value for word in call.keywords}
            for name in ("markup", "highlight"):
                value = switches.get(name)
                assert isinstance(value, ast.Constant), f"{path}:{call.lineno} prints text with {name}"
                assert value.value is False


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    """Metrics of four backbones with every analysis that is made unless it is switched off."""
    scans = make_scans(12, 12)
    predictions = {name: make_predictions(name, scans, phantom=True) for name in PAPER_BACKBONES}
    options = EvidenceOptions(permutations=19, refits=2, methods=True, method_repeats=1)
    rng = np.random.default_rng(0)
    volumes = {scan_id: rng.normal(size=(12, 12, 12)).astype(np.float32) for scan_id in scans}
    features = ScanFeatures(pd.DataFrame({"kernel": np.arange(len(scans)) % 7}, index=list(scans)), volumes)
    return assemble_results(
        predictions,
        make_summaries(scans),
        cohort="phantom",
        methods=stage2_methods(rounds=10),
        options=options,
        scan_features=features,
    ).metrics


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_study_is_one_screen(study: dict[str, Any], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "table_console", lambda: Console(file=text, width=width))
    terminal.ResultPrinter().study(study, Path("runs/demo"), "python predict.py", verbose=False, seconds={})
    lines = [line for whole in text.getvalue().splitlines() for line in textwrap.wrap(whole, width) or [""]]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    assert headline(study) in shown
    for sentence in (
        "Permutation test: p = ",
        "Calibration: ",
        "Shortcut audit: AUC",
        "Best other stage-2 method",
    ):
        assert sentence in shown
    assert shown.count("baseline: ") == 2
    assert "Checkpoints were selected on this set." in shown
    assert "Open runs/demo/report.html" in shown
    assert shown.endswith("Next: python predict.py")


def test_verbose_prints_every_table(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "table_console", lambda: Console(file=text, width=140))
    terminal.ResultPrinter().study(study, Path("runs/demo"), "next", verbose=True, seconds={"methods": 1.0})
    for table in (*result_tables(study), *evidence_tables(study)):
        assert table.title in " ".join(text.getvalue().split())
