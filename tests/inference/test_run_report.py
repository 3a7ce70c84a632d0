"""The report of a run: written whatever ends the command, without words that are not ours."""

import json
import signal
from pathlib import Path

import pytest

from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.config.validation import check_places
from cnr_iemn.errors import (
    CohortError,
    ConfigurationError,
    PartialFailureError,
    RefusalCode,
    Termination,
)
from cnr_iemn.inference.run_report import STAGES, RunReport, RunReporter
from cnr_iemn.inference.scan_result import Refusal
from cnr_iemn.utils.json_io import read_json
from tests.pipeline import entry_point

ENDS = [
    (PartialFailureError("1 of 2 scans were refused"), "partial", 1, "1 of 2 scans were refused"),
    (CohortError("No CT scan"), "failed", 2, "No CT scan"),
    (OSError(28, "No space left on device", "/data/Doe/x"), "failed", 2, "OSError: No space left on device"),
    (KeyboardInterrupt(), "interrupted", 130, "KeyboardInterrupt"),
    (Termination(signal.SIGTERM), "interrupted", 143, "Termination"),
    (ZeroDivisionError("Doe^Jane"), "fault", 1, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("error", "status", "code", "words"), ENDS, ids=[end[1] + str(end[2]) for end in ENDS])
def test_whatever_ends_a_command_is_reported(
    error: BaseException, status: str, code: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(type(error)), RunReporter(path):
        raise error
    report = read_json(path, RunReport, again="")
    assert (report.status, report.exit_code, report.error) == (status, code, words)
    assert "Doe" not in path.read_text(encoding="utf-8")
    assert report.scans is None
    assert "torch" in report.versions


def test_scans_are_counted_and_stages_timed(tmp_path: Path) -> None:
    refusals = [Refusal(f"P{k}", f"P{k}: no", code) for k, code in enumerate([RefusalCode.NOT_HU] * 2)]
    refusals.append(Refusal("P9", "P9: no", RefusalCode.NO_LUNGS))
    with RunReporter(tmp_path / "run.json") as reporter:
        for refusal in reporter.timed("predict", refusals):
            reporter.add(refusal)
    report = read_json(tmp_path / "run.json", RunReport, again="")
    assert report.refusals == {"not-hu": ["P0", "P1"], "no-lungs": ["P9"]}
    assert (report.status, report.exit_code, report.error, report.answered) == ("done", 0, None, 0)
    assert set(report.seconds) == {*STAGES, "total"}


def test_an_earlier_report_is_gone_while_the_command_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("{}")
    with RunReporter(path):
        assert not path.exists()
    with RunReporter(None):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_a_command_without_a_study_or_an_input_reports_its_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    words = [f"input={tmp_path}", f"bundle={tmp_path / 'none'}", f"output={tmp_path / 'out'}", f"report={path}"]
    assert entry_point("predict")(words) == 2
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["exit_code"] == 2
    assert document["error"].startswith("There is no bundle at")
    assert document["error"] in capsys.readouterr().err
    assert entry_point("predict")([*words[:-1], f"report={tmp_path}"]) == 2
    assert "is a folder, and the report is one file" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = PredictSettings(input="x", bundle="b", output=str(tmp_path), report=str(tmp_path / "file" / "run.json"))
    with pytest.raises(ConfigurationError, match="report="):
        check_places(settings)
