"""What an earlier answer may have removed."""

import json
from pathlib import Path

import pytest

from cnr_iemn.engine.answers import _written_before


def test_only_names_as_predict_gives_them_are_taken_from_an_earlier_answer(tmp_path: Path) -> None:
    ours = ["P1.html", "dicom/P1/report.dcm", "dicom/P1/capture.dcm", "dicom/P1/lungs.dcm"]
    others = ["../P1.html", "a/P1.html", "predictions.csv", "dicom/../x/report.dcm", "dicom/P1/other.dcm"]
    others += ["/etc/report.dcm", "dicom/P1/../report.dcm", "dicom//report.dcm", "P1.html/"]
    path = tmp_path / "predictions.json"
    scans = [{"page": None, "dicom": {"files": ours[1:] + others}}, *({"page": name} for name in (ours[0], *others))]
    path.write_text(json.dumps({"scans": scans}))
    assert _written_before(path) == set(ours)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"scans": 3}', '{"scans": ["x"]}', '{"scans": [{"page": 3}]}', "{}"])
def test_a_damaged_earlier_answer_has_nothing_removed(text: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(text)
    assert _written_before(tmp_path / "predictions.json") == set()
    assert _written_before(tmp_path / "none.json") == set()
