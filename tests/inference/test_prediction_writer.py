"""Which files of an earlier prediction may be removed."""

import json
from pathlib import Path

import pytest

from cnr_iemn.inference.prediction_writer import _earlier_files


def test_only_file_names_of_predict_are_read_from_an_earlier_output(tmp_path: Path) -> None:
    ours = ["P1.html", "dicom/P1/report.dcm", "dicom/P1/capture.dcm", "dicom/P1/lungs.dcm"]
    foreign = ["../P1.html", "a/P1.html", "predictions.csv", "dicom/../x/report.dcm", "dicom/P1/other.dcm"]
    foreign += ["/etc/report.dcm", "dicom/P1/../report.dcm", "dicom//report.dcm", "P1.html/"]
    path = tmp_path / "predictions.json"
    scans = [{"page": None, "dicom": {"files": ours[1:] + foreign}}, *({"page": name} for name in (ours[0], *foreign))]
    path.write_text(json.dumps({"scans": scans}))
    assert _earlier_files(path) == set(ours)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"scans": 3}', '{"scans": ["x"]}', '{"scans": [{"page": 3}]}', "{}"])
def test_a_damaged_earlier_output_removes_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(text)
    assert _earlier_files(tmp_path / "predictions.json") == set()
    assert _earlier_files(tmp_path / "none.json") == set()
