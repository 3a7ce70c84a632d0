"""The same scans from each source are answered alike, and by the same command once."""

import json
import shutil
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from cnr_iemn.inference.run_report import RunReport
from cnr_iemn.utils.json_io import read_json
from tests.pipeline import SMALL_MODEL, entry_point

pytestmark = pytest.mark.slow


def test_a_list_a_zip_and_a_dicomdir_are_answered_as_a_folder(
    tiny_study: Path, small_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    folder = tmp_path / "in"
    for name in ("P004", "P005"):
        shutil.copytree(cohort.parent / "COVID-19 subjects" / name, folder / name)
    (tmp_path / "scans.txt").write_text("in/P004\nin/P005\n")
    file_set = FileSet()
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in sorted(folder.rglob("*.dcm")):
            archive.write(path, path.relative_to(folder))
            ds = pydicom.dcmread(path)
            ds.PatientID, ds.PatientName, ds.StudyID = "1", "", "1"
            ds.StudyDate, ds.StudyTime, ds.SeriesNumber = "20200101", "120000", 1
            file_set.add(ds)
    file_set.write(tmp_path / "medium")
    answers = {}
    for name in ("in", "scans.txt", "scans.zip", "medium/DICOMDIR"):
        output, report = tmp_path / "out" / name, tmp_path / "run.json"
        words = [f"input={tmp_path / name}", f"runs={small_study / 'runs'}", "study=tiny", "gpus=0", "pages=false"]
        words += [f"ensemble={SMALL_MODEL}", f"output={output}", f"report={report}"]
        assert entry_point("predict")(words) == 0
        document = json.loads((output / "predictions.json").read_text())
        answers[name] = {scan["scan"]: scan["probabilities"] for scan in document["scans"]}
        assert read_json(report, RunReport, again="").answered == 2
        capsys.readouterr()
        assert entry_point("predict")([*words, "join=true"]) == 0  # which takes what the command would not do again
        assert entry_point("predict")(words) == 0
        assert "Each of the 2 scans has an answer" in capsys.readouterr().out
    first, *others = answers.values()
    assert list(first) == ["P004", "P005"]
    for other in others:
        assert list(other.values()) == [pytest.approx(values) for values in first.values()]
