"""The published tree's traps, on trees made here and on the real label arrays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import ScanRecord
from cnr_iemn.data.readers.covid_ct_md import read_covid_ct_md
from cnr_iemn.errors import CohortError

HEADER = "Label Index,Diagnosis,Relative Path,Folder/ID\r\n"


def make_tree(
    root: Path,
    *,
    spellings: tuple[str, str, str] = ("COVID-19 subjects", "Cap subjects", "Normal subjects"),
    labelled: int = 45,
    normals: int = 12,
) -> np.ndarray:
    """Write an empty tree with 50 COVID-19 and 3 CAP scans; row r of the labels has r + 1 infected slices."""
    for spelling, prefix, n in zip(spellings, ("P", "cap", "normal"), (50, 3, normals), strict=True):
        for k in range(n):
            (root / spelling / f"{prefix}{k + 1:03d}").mkdir(parents=True)
    rows = [("COVID-19", "./COVID-19/", f"P{k + 1:03d}") for k in range(labelled)] + [("CAP", "./CAP/", "cap001")]
    # `Label Index` skips 43, as published
    lines = [f"{k if k < 43 else k + 1},{d},{p},{name}\r\n" for k, (d, p, name) in enumerate(rows)]
    (root / "Index.csv").write_text(HEADER + "".join(lines), encoding="utf-8")
    labels = np.zeros((len(rows), 200), dtype=np.int32)
    for row in range(len(rows)):
        labels[row, : row + 1] = 1
    np.save(root / "Slice-level-labels-updated-1.npy", labels)
    return labels


@pytest.mark.parametrize(
    "spellings",
    [
        ("COVID-19 subjects", "Cap subjects", "Normal subjects"),
        ("COVID-19 Cases", "Cap Cases", "Normal Cases"),
        ("covid-19", "CAP", "NORMAL"),
    ],
)
def test_classes_are_matched_by_prefix(tmp_path: Path, spellings: tuple[str, str, str]) -> None:
    make_tree(tmp_path, spellings=spellings)
    cohort = read_covid_ct_md(tmp_path)
    assert [sum(s.label == c for s in cohort.scans) for c in cohort.classes] == [12, 50, 3]


def test_labels_are_read_by_position_not_by_label_index(tmp_path: Path) -> None:
    make_tree(tmp_path)
    cohort = read_covid_ct_md(tmp_path)
    infected = {s.scan_id: int(s.infected.sum()) for s in cohort.scans if s.infected is not None}
    assert infected["P043"] == 43
    assert infected["P044"] == 44  # its Label Index is 44, its row 43
    assert infected["cap001"] == 46
    assert not cohort.scan("P050").slice_labelled


def test_the_first_normals_in_numeric_order_are_labelled(tmp_path: Path) -> None:
    for name in ("normal2", "normal10", "normal1"):
        (tmp_path / "Normal" / name).mkdir(parents=True)
    cohort = read_covid_ct_md(tmp_path, labelled_normals=2)
    assert [s.scan_id for s in cohort.scans if s.slice_labelled] == ["normal1", "normal2"]
    without = read_covid_ct_md(tmp_path, labelled_normals=2, exclude=["normal1"])
    assert [s.scan_id for s in without.scans if s.slice_labelled] == ["normal2", "normal10"]


def test_class_folders_one_level_below_and_labels_beside(tmp_path: Path) -> None:
    make_tree(tmp_path / "Sample data")
    for path in (tmp_path / "Sample data").glob("*.*"):
        path.rename(tmp_path / path.name)
    assert sum(s.slice_labelled for s in read_covid_ct_md(tmp_path).scans) == 46 + 12


def test_slice_labels_of_a_scan(tmp_path: Path) -> None:
    make_tree(tmp_path)
    cohort = read_covid_ct_md(tmp_path)
    assert cohort.scan("cap001").slice_labels(60, cohort.classes).tolist() == [2] * 46 + [0] * 14
    assert cohort.scan("normal001").slice_labels(300, cohort.classes).tolist() == [0] * 300
    assert cohort.scan("P050").slice_labels(60, cohort.classes) is None
    with pytest.raises(CohortError, match="every label may be shifted"):
        cohort.scan("cap001").slice_labels(45, cohort.classes)  # a label beyond the last slice
    with pytest.raises(CohortError, match="holds 200 values"):
        cohort.scan("cap001").slice_labels(201, cohort.classes)


def test_original_labels_and_a_missing_array(tmp_path: Path) -> None:
    labels = make_tree(tmp_path)
    with pytest.raises(CohortError, match=r"Slice-level-labels\.npy or Slice_level_labels\.npy"):
        read_covid_ct_md(tmp_path, labels="original")
    np.save(tmp_path / "Slice_level_labels.npy", 1 - labels)
    original = read_covid_ct_md(tmp_path, labels="original")
    assert int(original.scan("P001").infected.sum()) == 199
    (tmp_path / "Slice-level-labels-updated-1.npy").unlink()
    with pytest.raises(CohortError, match=r"data\.labels=original is there"):
        read_covid_ct_md(tmp_path)


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="is not a folder"):
        read_covid_ct_md(tmp_path / "absent")
    with pytest.raises(CohortError, match="holds no class folder"):
        read_covid_ct_md(tmp_path)
    make_tree(tmp_path / "a")
    with pytest.raises(CohortError, match=r"data\.exclude names P999"):
        read_covid_ct_md(tmp_path / "a", exclude=["P999"])
    np.save(tmp_path / "a" / "Slice-level-labels-updated-1.npy", np.zeros((3, 200), dtype=np.int32))
    with pytest.raises(CohortError, match="lists 46 scans"):
        read_covid_ct_md(tmp_path / "a")
    make_tree(tmp_path / "b")
    (tmp_path / "b" / "Normal subjects" / "P001").mkdir()
    with pytest.raises(CohortError, match=r"P001 lies in a folder of class Normal, but Index\.csv says COVID-19"):
        read_covid_ct_md(tmp_path / "b")
    make_tree(tmp_path / "c")
    (tmp_path / "c" / "Normal subjects" / "P050").mkdir()
    with pytest.raises(CohortError, match="Two scans are named P050"):
        read_covid_ct_md(tmp_path / "c")


def test_rows_that_could_go_to_another_scan_are_refused_with_their_lines(tmp_path: Path) -> None:
    make_tree(tmp_path)
    index = tmp_path / "Index.csv"
    text = index.read_text(encoding="utf-8")
    for old, new, message in (
        (",P002\n", ",P001\n", r"Index\.csv:3: scan P001 has its row of labels at line 2"),
        (",P002\n", ",p001\n", r"Index\.csv:3: scan p001 has its row of labels at line 2"),
        (",P002\n", ",\n", r"Index\.csv:3: Folder/ID is empty"),
        ("1,COVID-19", "1,Influenza", r"Index\.csv:3: the diagnosis 'Influenza' is none of"),
    ):
        index.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")
        with pytest.raises(CohortError, match=message):
            read_covid_ct_md(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"P002", "Pé".encode("latin-1")), r"Index\.csv is not UTF-8"),
        (lambda data: data.replace(b",./COVID-19/,P002", b""), r"Index\.csv:3: 2 fields, but 4 columns"),
        (lambda data: data.replace(b"P002", b'"' + b"x" * 200_000 + b'"'), r"Index\.csv:3: this is not CSV"),
        (lambda data: data.replace(b"Diagnosis", b"Class"), r"Index\.csv: .*missing Diagnosis"),
        (lambda data: b"", r"Index\.csv: columns none"),
    ],
)
def test_a_damaged_index_is_named(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    make_tree(tmp_path)
    index = tmp_path / "Index.csv"
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(CohortError, match=message):
        read_covid_ct_md(tmp_path)


def test_a_normal_scan_has_no_infected_slices(tmp_path: Path) -> None:
    labels = make_tree(tmp_path)
    index = tmp_path / "Index.csv"
    index.write_text(index.read_text().replace("COVID-19,./COVID-19/,P002", "Normal,./Normal/,normal001"))
    with pytest.raises(CohortError, match=r"Index\.csv:3: normal001 is Normal, but its row of labels has 2 infected"):
        read_covid_ct_md(tmp_path)
    labels[1] = 0
    np.save(tmp_path / "Slice-level-labels-updated-1.npy", labels)
    assert read_covid_ct_md(tmp_path).scan("normal001").slice_labelled


def test_rows_without_a_folder_are_counted_and_told(tmp_path: Path) -> None:
    make_tree(tmp_path)
    assert read_covid_ct_md(tmp_path).notes == ()
    index = tmp_path / "Index.csv"
    index.write_text(index.read_text(encoding="utf-8").replace(",P002", ",P0O2"), encoding="utf-8")
    cohort = read_covid_ct_md(tmp_path)
    (note,) = cohort.notes
    assert "labels 1 scans that have no folder (p0o2): their rows are not used; 45 are" in note
    assert not cohort.scan("P002").slice_labelled


@pytest.mark.parametrize("value", [-1, 2, 0.5, np.nan])
def test_a_label_that_is_neither_0_nor_1_infects_no_slice(value: float, tmp_path: Path) -> None:
    labels = make_tree(tmp_path).astype(float)
    labels[3, 150] = value
    np.save(tmp_path / "Slice-level-labels-updated-1.npy", labels)
    with pytest.raises(CohortError, match=r"updated-1\.npy holds 1 values .* row 3, column 150"):
        read_covid_ct_md(tmp_path)


def test_a_row_without_infection_may_be_too_short_as_well() -> None:
    scan = ScanRecord("P1", "P1", Path(), "CAP", slice_labelled=True, infected=np.zeros(200, bool))
    assert scan.slice_labels(200, SPGC_CLASSES).tolist() == [0] * 200
    with pytest.raises(CohortError, match=r"201 slices were read, but its row of labels holds 200 values\. Slices"):
        scan.slice_labels(201, SPGC_CLASSES)


def test_folders_that_some_file_systems_take_for_one_are_refused(tmp_path: Path) -> None:
    for name in ("normal1", "Normal1"):
        (tmp_path / "Normal" / name).mkdir(parents=True, exist_ok=True)
    if len(list((tmp_path / "Normal").iterdir())) == 1:
        pytest.skip("this file system is one of them")
    with pytest.raises(CohortError, match="Two scans are named normal1 and Normal1, which some file systems"):
        read_covid_ct_md(tmp_path)


def test_the_real_labels_read_by_position(sample_root: Path) -> None:
    cohort = read_covid_ct_md(sample_root)
    assert [(s.scan_id, s.label, s.slice_labelled) for s in cohort.scans] == [
        ("normal001", "Normal", True),
        ("P001", "COVID-19", True),
        ("cap001", "CAP", True),
    ]
    assert int(cohort.scan("P001").infected.sum()) == 80
    assert int(cohort.scan("cap001").infected.sum()) == 86
    assert "labels 77 scans that have no folder" in cohort.notes[0]
    original = read_covid_ct_md(sample_root, labels="original")
    assert int(original.scan("P001").infected.sum()) == 39
