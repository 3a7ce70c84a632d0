"""The organisers' split from a per-scan result table, with the ids of 2021 and with today's."""

from pathlib import Path

import pytest

from cnr_iemn.config.schema.settings import DataSettings, SplitSettings
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.data.readers.covid_ct_md import read_infected
from cnr_iemn.data.spgc import is_result_table, spgc_split
from cnr_iemn.errors import CohortError
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.roles import cohort_notes, study_split

NORMAL, COVID, CAP = SPGC_CLASSES
LOST = (44, 100)
"""COVID-19 scans of 2021 that the release of the test lacks: a labelled one, and one of the others."""
LABELLED = 55


def ids_of_2021() -> list[str]:
    return [f"P{k:03d}" for k in range(1, 172)]


def todays_cohort() -> tuple[Cohort, dict[str, str]]:
    """Return a release without the lost scans, and the id of 2021 of each COVID-19 scan."""
    left = [k for k in range(1, 172) if k not in LOST]
    before = {f"P{today:03d}": f"P{k:03d}" for today, k in enumerate(left, 1)}
    scans = [record(name, COVID, labelled=int(old[1:]) <= LABELLED) for name, old in before.items()]
    scans += [record(f"cap{k:03d}", CAP) for k in range(1, 61)] + [
        record(f"normal{k:03d}", NORMAL) for k in range(1, 77)
    ]
    return Cohort("covid_ct_md", Path(), SPGC_CLASSES, tuple(scans)), before


def record(name: str, label: str, *, labelled: bool = False) -> ScanRecord:
    return ScanRecord(name, name, Path(name), label, slice_labelled=labelled)


def write_table(path: Path, ids: list[str]) -> Path:
    classes = {"P": COVID, "c": CAP, "n": NORMAL}
    lines = [f"{scan_id},{classes[scan_id[0]]},0.5" for scan_id in ids]
    path.write_text("\n".join(["patient,real,prediction", *lines]) + "\n")
    return path


HELD_OUT = [f"P{k:03d}" for k in (1, 3, 43, 44, 45, 55, 56, 58, 99, 101, 102, 150, 151, 171)] + ["cap003", "normal030"]


def test_ids_of_2021_are_taken_as_they_are(tmp_path: Path) -> None:
    scans = [record(name, COVID) for name in ids_of_2021()]
    scans += [record("cap003", CAP), record("normal030", NORMAL), record("normal031", NORMAL)]
    cohort = Cohort("covid_ct_md", Path(), SPGC_CLASSES, tuple(scans))
    split = spgc_split(write_table(tmp_path / "t.csv", HELD_OUT), cohort, uncertain=TRAINING)
    assert [scan for scan, side in split.side.items() if side == VALIDATION] == HELD_OUT
    assert (split.uncertain, split.missing) == ((), ())


@pytest.mark.parametrize("uncertain", [TRAINING, VALIDATION])
def test_todays_ids_are_mapped_and_no_certain_scan_is_on_the_wrong_side(tmp_path: Path, uncertain: str) -> None:
    cohort, before = todays_cohort()
    split = spgc_split(write_table(tmp_path / "t.csv", HELD_OUT), cohort, uncertain=uncertain)
    assert split.missing == ("p044",)
    for scan_id, side in split.side.items():
        if scan_id not in split.uncertain:
            assert side == (VALIDATION if before.get(scan_id, scan_id) in HELD_OUT else TRAINING), scan_id
        else:
            assert side == uncertain
    labelled = {scan.scan_id for scan in cohort.scans if scan.slice_labelled}
    assert not labelled & set(split.uncertain)
    assert {scan_id for scan_id in labelled if split.side[scan_id] == VALIDATION} == {
        "P001",
        "P003",
        "P043",
        "P044",
        "P054",
    }
    notes = split.notes(Path("t.csv"), uncertain)
    assert f"of {len(split.uncertain)} unlabelled COVID-19 scans" in notes[1]
    assert notes[2].endswith("not in the cohort: p044.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,real\nX1,COVID-19\n", "lists no scan of the cohort covid_ct_md"),
        ("patient,real\nP001,COVID-19\nP001,COVID-19\n", "P001 is listed twice"),
        ("patient,real\nP001,CAP\n", "P001 is CAP, but P001 of the cohort is COVID-19"),
    ],
)
def test_a_table_of_others_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    cohort, _ = todays_cohort()
    with pytest.raises(CohortError, match=message):
        spgc_split(tmp_path / "t.csv", cohort, uncertain=TRAINING)


def test_a_result_table_is_known_by_its_columns(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("scan_id,split\nP001,training\n")
    assert is_result_table(write_table(tmp_path / "t.csv", HELD_OUT))
    assert not is_result_table(tmp_path / "split.csv")
    assert not is_result_table(tmp_path / "none.csv")


def test_a_study_is_split_after_a_table(tmp_path: Path) -> None:
    cohort, _ = todays_cohort()
    settings = SplitSettings(file=str(write_table(tmp_path / "t.csv", HELD_OUT)))
    split = study_split(tmp_path / "study", cohort, settings)
    assert split == spgc_split(tmp_path / "t.csv", cohort, uncertain=TRAINING).side
    assert "cap003" in {scan for scan, side in split.items() if side == VALIDATION}
    data = DataSettings(split=settings)
    assert any(note.startswith("Split after") for note in cohort_notes(cohort, split, data))


@pytest.mark.parametrize("labels", ["updated-1", "original"])
def test_the_papers_slice_counts_follow_from_the_organisers_split(sample_root: Path, labels: str) -> None:
    """Section 2: 2,482 COVID-19 and 742 CAP training slices, of 38 and 17 scans; 17, 8 and 9 in validation."""
    table = sample_root.parent / "spgc" / "spgc-validation.csv"
    if not table.is_file():
        pytest.skip("the result tables of the SPGC challenge are not there")
    name = "Slice-level-labels-updated-1.npy" if labels == "updated-1" else "Slice-level-labels.npy"
    infected = read_infected(sample_root / name)
    rows = [row for _, row in read_rows(sample_root / "Index.csv", {"Diagnosis", "Folder/ID"}, None)]
    scans = [
        record(row["Folder/ID"], CAP if "cap" in row["Diagnosis"].lower() else COVID, labelled=True) for row in rows
    ]
    scans += [record(f"normal{k:03d}", NORMAL) for k in range(1, 77)]
    cohort = Cohort("covid_ct_md", sample_root, SPGC_CLASSES, tuple(scans))
    split = spgc_split(table, cohort, uncertain=TRAINING)
    counts = {label: [0, 0] for label in (COVID, CAP)}
    for row, scan, slices in zip(rows, scans, infected, strict=False):
        assert row["Folder/ID"] == scan.scan_id
        if split.side[scan.scan_id] == TRAINING:
            counts[scan.label][0] += 1
            counts[scan.label][1] += int(slices.sum())
    assert counts == {COVID: [38, 2482], CAP: [17, 742]}
    held_out = [scan for scan, side in split.side.items() if side == VALIDATION]
    in_first_30 = [scan for scan in held_out if scan.startswith("normal") and int(scan[6:]) <= 30]
    assert len([scan for scan in held_out if scan.startswith("cap")]) == 8
    assert len(in_first_30) == 9
    # 17 with P044 of 2021, which the release has lost
    assert len([scan for scan in held_out if scan.startswith("P")]) + ("p044" in split.missing) == 17
