"""Classes of a manifest: no empty and no misspelt one becomes a class, and scans without one are a choice."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cnr_iemn.data.names import id_fault
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.data.splits import make_folds, make_split, read_split, split_csv
from cnr_iemn.errors import CohortError


@pytest.fixture(autouse=True)
def picture(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8), np.uint8))


def manifest(folder: Path, *classes: str, head: str = "", ids: tuple[str, ...] = ()) -> Path:
    """Write a manifest with a scan a class; a class may hold further fields."""
    rows = [f"{ids[k] if ids else f's{k}'},x.png,{name}" for k, name in enumerate(classes)]
    path = folder / "scans.csv"
    path.write_text("\n".join([f"scan_id,path,class{head}", *rows]) + "\n", encoding="utf-8")
    return path


OTHER_SPELLINGS = ("covid", "COVID ", "CO-VID", "Co vid", "CO_VID", "CO\u00a0VID", "\uff23\uff2f\uff36\uff29\uff24")


@pytest.mark.parametrize("other", [*OTHER_SPELLINGS[:1], *OTHER_SPELLINGS[2:]])
def test_a_class_in_another_spelling_is_refused_with_its_lines(other: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, "healthy", "COVID", other, "COVID", other, "COVID")
    with pytest.raises(CohortError, match=r"scans\.csv:4,6: class .* differs from 'COVID' \(3 lines\)"):
        read_manifest(path)
    with pytest.raises(CohortError, match=r"4,6: class .* is none of healthy, COVID; it differs from 'COVID'"):
        read_manifest(path, classes=["healthy", "COVID"])


def test_who_names_two_classes_that_look_alike_means_both(tmp_path: Path) -> None:
    path = manifest(tmp_path, "healthy", "PCR+", "PCR-")
    with pytest.raises(CohortError, match=r"name both in data\.classes"):
        read_manifest(path)
    assert read_manifest(path, classes=["healthy", "PCR+", "PCR-"]).counts == {"healthy": 1, "PCR+": 1, "PCR-": 1}


def test_the_slice_labels_spelling_is_compared_too(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("scan_id,slice_index,class\ns1,0,sick\n")
    with pytest.raises(CohortError, match=r"labels\.csv:2: class 'sick' is neither .*; it differs from 'Sick'"):
        read_manifest(manifest(tmp_path, "healthy", "Sick"), slices=labels)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["healthy", "healthy", "sick"], "healthy is given twice"),
        (["healthy", ""], "the class is empty"),
        (["healthy"], "one class only"),
        (["healthy", "x" * 81], "is longer than 80 letters"),
        (["healthy", "a\nb"], "an invisible character"),
    ],
)
def test_a_list_of_classes_that_is_none(classes: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=message):
        read_manifest(manifest(tmp_path, "healthy", "sick"), classes=classes)


@pytest.mark.parametrize("name", ['"a\nb"', "a\u200bb", "a\u202eb", "x" * 81])
def test_a_class_that_cannot_be_used_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"scans\.csv:\d: class '.*' ?(holds|\.\.\. is longer)"):
        read_manifest(manifest(tmp_path, "healthy", name))


@pytest.mark.parametrize("word", ["NaN", "n/a", "#N/A", "null", "None", "unknown", "?", "-", "--"])
def test_a_word_for_a_missing_value_is_a_class_only_where_it_is_listed(word: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, "healthy", word, "sick", word)
    for choice in ("refuse", "predict"):
        with pytest.raises(CohortError, match=r"scans\.csv:3,5: class '.*' reads as no class: leave it empty"):
            read_manifest(path, empty_class=choice)
    assert read_manifest(path, classes=["healthy", word, "sick"]).counts[word] == 2


@pytest.mark.parametrize("word", ["nona", "no", "A", "0", "naïve", "Nanjing", "other", "\u80ba\u708e"])
def test_ordinary_words_are_classes(word: str, tmp_path: Path) -> None:
    assert word in read_manifest(manifest(tmp_path, "healthy", word)).classes


def test_a_manifest_without_any_class(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"^1 problem.*\n  scans\.csv:1: no scan has a class; predict\.py takes"):
        read_manifest(manifest(tmp_path, "", ""), empty_class="predict")


def test_many_lines_with_one_fault_are_one_problem(tmp_path: Path) -> None:
    path = manifest(tmp_path, "healthy", "sick", *[""] * 1000)
    with pytest.raises(
        CohortError, match=r"^1 problem.*\n  scans\.csv:4,5,6,7,8 and 995 more lines: the class is empty"
    ) as told:
        read_manifest(path)
    assert "data.empty_class=predict" in str(told.value)


def test_scans_without_a_class_are_on_no_side_and_no_class(tmp_path: Path) -> None:
    cohort = read_manifest(manifest(tmp_path, *["healthy", "sick", " "] * 6), empty_class="predict")
    assert cohort.classes == ("healthy", "sick")
    assert cohort.counts == {"healthy": 6, "sick": 6}
    assert sum("6 scans have no class" in note for note in cohort.notes) == 1
    none = {scan.scan_id for scan in cohort.scans if not scan.label}
    assert len(none) == 6
    assert not any(scan.slice_labelled for scan in cohort.with_weak_labels().scans if scan.scan_id in none)
    split = make_split(cohort, validation=0.5, seed=0)
    assert {scan_id for scan_id, side in split.items() if side == ""} == none
    assert not none & set(make_folds(cohort, split, folds=2, seed=0))
    saved = tmp_path / "split.csv"
    saved.write_text(split_csv(cohort, split))
    assert read_split(saved, cohort) == split
    saved.write_text("".join(line for line in split_csv(cohort, split).splitlines(True) if not line.endswith(",\n")))
    assert read_split(saved, cohort) == split
    saved.write_text(split_csv(cohort, {**split, min(none): "training"}))
    with pytest.raises(CohortError, match=f"without a class, so on no side: {min(none)}"):
        read_split(saved, cohort)


def test_scans_without_a_class_change_the_draw_of_no_other(tmp_path: Path) -> None:
    with_them = read_manifest(manifest(tmp_path, *["healthy", "sick", ""] * 9), empty_class="predict")
    ids = [scan.scan_id for scan in with_them.scans if scan.label]
    without = read_manifest(manifest(tmp_path, *["healthy", "sick"] * 9, ids=tuple(ids)))
    split = make_split(with_them, validation=0.4, seed=5)
    assert {scan_id: split[scan_id] for scan_id in ids} == make_split(without, validation=0.4, seed=5)


def test_the_manifest_s_own_split_leaves_them_out(tmp_path: Path) -> None:
    good = manifest(tmp_path, "healthy,training", "sick,validation", ",", head=",split")
    assert read_manifest(good, empty_class="predict").split == {"s0": "training", "s1": "validation", "s2": ""}
    bad = manifest(tmp_path, "healthy,training", "sick,validation", ",training", head=",split")
    with pytest.raises(CohortError, match=r"scans\.csv:4: split 'training', but the scan has no class"):
        read_manifest(bad, empty_class="predict")
    labels = tmp_path / "labels.csv"
    labels.write_text("scan_id,slice_index,class\ns2,0,sick\n")
    with pytest.raises(CohortError, match=r"labels\.csv:2: s2 has no class in the manifest"):
        read_manifest(good, empty_class="predict", slices=labels)


def test_the_healthy_class_and_the_counts_are_told(tmp_path: Path) -> None:
    (note,) = read_manifest(manifest(tmp_path, "sick", "Non COVID", "sick")).notes
    assert "Non COVID 1, sick 2. Non COVID counts as healthy (by its name" in note
    (note,) = read_manifest(manifest(tmp_path, "b", "a"), classes=["a", "b"]).notes
    assert "a counts as healthy (first in data.classes)" in note


FAULTY_IDS = [
    "x" * 300,
    "ä" * 125,
    "refusals.json",
    "report.html",
    "Settings.JSON",
    "a.",
    "CON",
    "nul.txt",
    "com1",
    "a\u200bb",
    "a\x1b[31mb",
    ".a",
    "a\\b",
]


@pytest.mark.parametrize("scan_id", FAULTY_IDS)
def test_an_id_that_names_no_folder_everywhere_is_refused_with_its_line(scan_id: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"scans\.csv:3: scan_id .* cannot be used as one") as told:
        read_manifest(manifest(tmp_path, "healthy", "sick", ids=("a", scan_id)))
    assert len(str(told.value)) < 500
    assert "\x1b" not in str(told.value)


def test_a_byte_that_is_no_utf_8_and_usual_ids() -> None:
    assert "not UTF-8" in str(id_fault("a\udce9"))
    for scan_id in ("P001", "T1-001", "2020.03.01", "Müller 3", "a,b", "x" * 200, "console", "report", "12_3"):
        assert id_fault(scan_id) is None


@pytest.mark.parametrize("pair", [("a1", "A1"), ("\u00e9", "e\u0301"), ("straße", "STRASSE")])
def test_ids_that_one_file_system_takes_for_one_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="which some file systems do not tell apart"):
        read_manifest(manifest(tmp_path, "healthy", "sick", ids=pair))
