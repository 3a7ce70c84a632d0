"""Which files of an earlier prediction may be removed."""

import json
from pathlib import Path

import pytest

from cnr_iemn.inference.answers import remove_files
from cnr_iemn.inference.prediction_files import earlier_files


def test_only_files_that_predict_names_are_removed(tmp_path: Path) -> None:
    """By names that it gives, below the output folder; the same file name elsewhere stays."""
    output = tmp_path / "out"
    ours = ["P1.html", "dicom/P1/report.dcm", "dicom/P1/capture.dcm", "dicom/P1/lungs.dcm", "features/P1.safetensors"]
    foreign = ["../P1.html", "a/P1.html", "predictions.csv", "x/report.dcm", "dicom/P2/other.dcm", "features/P1.npy"]
    for name in (*ours, *foreign):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("")
    hostile = ["dicom/../x/report.dcm", str(output / "x" / "report.dcm"), "dicom/P1/../report.dcm", "P1.html/"]
    document = {
        "scans": [{"page": None, "dicom": {"files": ours[1:] + foreign + hostile}}]
        + [{"page": name} for name in (ours[0], *foreign)]
    }
    (output / "predictions.json").write_text(json.dumps(document))
    remove_files(output, earlier_files(output / "predictions.json"))
    left = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert left == {"predictions.json", "a/P1.html", "predictions.csv", "x/report.dcm", "dicom/P2/other.dcm"} | {
        "features/P1.npy"
    }
    assert (tmp_path / "P1.html").is_file()
    assert not (output / "dicom" / "P1").exists()


@pytest.mark.parametrize("text", ["", "[]", "7", '{"scans": 3}', '{"scans": ["x"]}', '{"scans": [{"page": 3}]}', "{}"])
def test_a_damaged_earlier_output_names_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(text)
    assert earlier_files(tmp_path / "predictions.json") == set()
    assert earlier_files(tmp_path / "none.json") == set()
