"""Label files as the test sets of SPGC have them, and everything that can be wrong with one told at once."""

from pathlib import Path

import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.label_files import fold_id, read_labels
from cnr_iemn.errors import CohortError

BOM = "\ufeff"


def write(path: Path, *lines: str, header: str = "Study,Label") -> Path:
    path.write_text("\n".join([BOM + header, *lines]) + "\n", encoding="utf-8")
    return path


def test_the_challenge_s_spelling_is_matched(tmp_path: Path) -> None:
    one = write(tmp_path / "test-1-labels.csv", "T1-001,covid-19", "T1-002,NORMAL", "", "T1-003,Cap")
    two = write(tmp_path / "test-2-labels.csv", "t2 001,Covid19", "T2-002,cap", header="Study , Label")
    ids = ["T2_002", "T1_001", "T1_002", "T1_003", "T2_001"]
    found = read_labels([one, two], ids, SPGC_CLASSES)
    assert found.index.tolist() == ["T1_001", "T1_002", "T1_003", "T2_001", "T2_002"]
    assert found["label"].tolist() == ["COVID-19", "Normal", "CAP", "COVID-19", "CAP"]
    assert found["set"].tolist() == ["test-1"] * 3 + ["test-2"] * 2
    assert found["patient_id"].tolist() == found.index.tolist()


def test_a_patient_s_scans_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "own.csv", "a,cap,p1", "b,cap,p1", "c,normal,", header="Study,Label,patient_id")
    assert read_labels([path], ["a", "b", "c"], SPGC_CLASSES)["patient_id"].tolist() == ["p1", "p1", "c"]


def test_a_result_table_of_the_challenge_has_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "t1-t3.csv", "T1-001,COVID-19,0.9,CAP", "T2-001,Normal,,", header="patient,real,p,other")
    labels = read_labels([path], ["T1_001", "T2_001"], SPGC_CLASSES)
    assert labels["label"].to_dict() == {"T1_001": "COVID-19", "T2_001": "Normal"}
    assert set(labels["set"]) == {"t1-t3"}


def test_ids_are_folded_without_joining_their_parts() -> None:
    assert fold_id("T1-001") == fold_id("t1_001") == fold_id(" T1  001") == "t1-001"
    assert fold_id("T11-01") != fold_id("T1-101")
    assert fold_id("T1-01") != fold_id("T1-001")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "labels.csv", "T1-001,covid-19", "T1_001,cap", "T1-002,covid", "T1-009,cap", "T1-003,healthy"
    )
    ids = ["T1_001", "T1_002", "T1_003", "T1_004", "T9_1", "t9-1"]
    with pytest.raises(CohortError) as caught:
        read_labels([path], ids, SPGC_CLASSES)
    assert str(caught.value).splitlines()[1:-1] == [
        "  a label file cannot distinguish the scans T9_1 and t9-1: rename one",
        "  labels.csv:3: scan 'T1_001' has its label at labels.csv:2",
        "  labels.csv:4: label 'covid' is none of Normal, COVID-19, CAP",
        "  labels.csv:6: label 'healthy' is none of Normal, COVID-19, CAP",  # problems of one kind stand together
        "  labels.csv:5: no prediction is of scan 'T1-009'",
        "  scan T1_004 has no label",
        "  scan T9_1 has no label",
    ]
    assert str(caught.value).startswith("7 problem(s)")


def test_a_scan_that_two_files_label_is_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.csv", "x,cap"), write(tmp_path / "b.csv", "x,cap")]
    with pytest.raises(CohortError, match=r"b\.csv:2: scan 'x' has its label at a\.csv:2"):
        read_labels(paths, ["x"], SPGC_CLASSES)


@pytest.mark.parametrize("names", [("a/labels.csv", "b/labels.csv"), ("T1.csv", "t1-labels.csv"), ("together.csv",)])
def test_sets_need_names_of_their_own(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x,cap")
    with pytest.raises(CohortError, match="each needs a different name, other than together"):
        read_labels([tmp_path / name for name in names], ["x"], SPGC_CLASSES)


def test_a_label_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="missing Label, Study; unknown class, scan_id"):
        read_labels([write(tmp_path / "a.csv", "x,cap", header="scan_id,class")], ["x"], SPGC_CLASSES)
    with pytest.raises(CohortError, match=r"nowhere\.csv does not exist"):
        read_labels([tmp_path / "nowhere.csv"], ["x"], SPGC_CLASSES)


def test_classes_that_look_alike_are_told_apart_by_their_exact_names(tmp_path: Path) -> None:
    classes = ("PCR+", "PCR-")
    labels = read_labels([write(tmp_path / "a.csv", "x,PCR+", "y,PCR-")], ["x", "y"], classes)
    assert labels["label"].to_dict() == {"x": "PCR+", "y": "PCR-"}
    with pytest.raises(CohortError, match=r"b\.csv:2: label 'pcr' is none of PCR\+, PCR-"):
        read_labels([write(tmp_path / "b.csv", "x,pcr")], ["x"], classes)
