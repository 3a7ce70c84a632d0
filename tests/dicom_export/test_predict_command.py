"""Runs of predict.py with DICOM output: one that fails, ones that are refused, and a real scan."""

import json
import shutil
from pathlib import Path

import pytest

from cnr_iemn.inference.run_report import RunReport
from cnr_iemn.stage2.ensemble import signed_text
from cnr_iemn.utils.json_io import read_json
from tests.dicom_export.dicom_scans import dciodvfy_errors, phantom_with_uids
from tests.pipeline import MODELS, entry_point
from tests.planted import leaks

pytestmark = pytest.mark.slow

hd = pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")

DICOM = ("dicom=true", "identify=true")
SECRET = "PLANTEDNAME"


def test_a_failure_costs_a_scan_its_dicom_files_but_not_its_prediction(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And those of an earlier run, which are of another answer, go."""

    def fails(*_: object) -> None:
        raise TypeError(SECRET)

    out = tmp_path / "out"
    scan = shutil.copytree(phantom_with_uids(tiny_study), tmp_path / "P1")
    words = [f"input={scan}", f"runs={tiny_study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]"]
    words += [f"output={out}", "gpus=0", "pages=false", *DICOM]
    assert entry_point("predict")(words) == 0
    assert len(list((out / "dicom" / "P1").iterdir())) == 2
    (first,) = json.loads((out / "predictions.json").read_text())["scans"]
    monkeypatch.setattr("cnr_iemn.dicom_export.writer.structured_report", fails)
    assert entry_point("predict")([*words, "redo=all", f"report={tmp_path / 'run.json'}"]) == 1
    assert read_json(tmp_path / "run.json", RunReport, again="").without_dicom == {"program-fault": ["P1"]}
    (answer,) = json.loads((out / "predictions.json").read_text())["scans"]
    assert answer["dicom"]["refused"].startswith("P1: the program failed on it (TypeError in test_predict_command.py")
    assert answer["dicom"]["code"] == "program-fault"
    assert answer["dicom"]["refused"].endswith("the prediction is in predictions.json. Please report this fault.")
    assert answer["probabilities"] == first["probabilities"]
    assert not (out / "dicom" / "P1").exists()
    assert not leaks(out, (SECRET,))
    assert SECRET not in "".join(capfd.readouterr())


def test_a_real_scan_in_a_study_of_patients(tiny_study: Path, tmp_path: Path, sample_root: Path) -> None:
    runs = shutil.copytree(tiny_study / "runs", tmp_path / "runs")
    ensemble = runs / "tiny" / "ensembles" / "+".join(MODELS) / "ensemble.json"
    ensemble.write_text(signed_text({**json.loads(ensemble.read_text()), "phantom": False}))
    words = [f"input={sample_root / 'Cap subjects' / 'cap001'}", f"runs={runs}", "study=tiny", "gpus=0", "pages=false"]
    words += [f"ensemble=[{','.join(MODELS)}]", f"output={tmp_path / 'out'}", *DICOM, "segmentation=true"]
    assert entry_point("predict")(words) == 0
    report = hd.sr.srread(tmp_path / "out" / "dicom" / "cap001" / "report.dcm")
    (answer,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["scans"]
    values = [item.value for item in report.content.get_image_measurement_groups()[0].get_measurements()]
    assert values[:3] == list(answer["probabilities"].values())
    assert len(report.get_evidence()) == 168
    assert "Notice" not in str(report)
    assert "QualityControlSubject" not in report
    for name in ("report.dcm", "capture.dcm", "lungs.dcm"):
        assert dciodvfy_errors(tmp_path / "out" / "dicom" / "cap001" / name) == []
