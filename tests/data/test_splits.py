"""The split's arithmetic against the paper's counts; patients on one side; the file's round trip."""

from collections import Counter
from pathlib import Path

import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.splits import make_folds, make_split, read_split, split_csv
from cnr_iemn.errors import CohortError


def spgc_cohort() -> Cohort:
    """The SPGC cohort's counts: 76 / 171 / 60 scans, 30 / 55 / 25 of them slice-labelled."""
    scans = []
    for label, prefix, n, labelled in (
        ("Normal", "normal", 76, 30),
        ("COVID-19", "P", 171, 55),
        ("CAP", "cap", 60, 25),
    ):
        for k in range(n):
            name = f"{prefix}{k + 1:03d}"
            scans.append(ScanRecord(name, name, Path(name), label, slice_labelled=k < labelled))
    return Cohort("spgc", Path("spgc"), SPGC_CLASSES, tuple(scans))


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_the_organisers_counts_follow_from_the_share(seed: int) -> None:
    cohort = spgc_cohort()
    split = make_split(cohort, validation=0.325, seed=seed)
    by_class = Counter((scan.label, split[scan.scan_id]) for scan in cohort.scans)
    labelled = Counter((scan.label, split[scan.scan_id]) for scan in cohort.scans if scan.slice_labelled)
    assert by_class == {
        ("COVID-19", "training"): 116, ("CAP", "training"): 41, ("Normal", "training"): 52,
        ("COVID-19", "validation"): 55, ("CAP", "validation"): 19, ("Normal", "validation"): 24,
    }  # fmt: skip
    assert labelled == {
        ("COVID-19", "training"): 38, ("CAP", "training"): 17, ("Normal", "training"): 21,
        ("COVID-19", "validation"): 17, ("CAP", "validation"): 8, ("Normal", "validation"): 9,
    }  # fmt: skip


def test_seeds_draw_different_splits_and_the_same_seed_the_same() -> None:
    cohort = spgc_cohort()
    first, again, other = (make_split(cohort, validation=0.325, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_validation_trains_on_all() -> None:
    assert set(make_split(spgc_cohort(), validation=0.0, seed=0).values()) == {"training"}


def test_a_patient_with_several_scans_stays_on_one_side() -> None:
    scans = tuple(
        ScanRecord(f"s{p}-{k}", f"patient{p}", Path(), SPGC_CLASSES[p % 3], slice_labelled=k == 0)
        for p in range(30)
        for k in range(3)
    )
    cohort = Cohort("several", Path(), SPGC_CLASSES, scans)
    split = make_split(cohort, validation=0.4, seed=3)
    sides = {scan.patient_id: {split[s.scan_id] for s in scans if s.patient_id == scan.patient_id} for scan in scans}
    assert all(len(found) == 1 for found in sides.values())
    assert sum(found == {"validation"} for found in sides.values()) == 3 * 4  # floor(0.4 x 10) patients of each class


def test_folds_cover_the_training_scans_once_and_are_stratified() -> None:
    cohort = spgc_cohort()
    split = make_split(cohort, validation=0.325, seed=0)
    folds = make_folds(cohort, split, folds=5, seed=0)
    assert set(folds) == {scan_id for scan_id, side in split.items() if side == "training"}
    sizes = Counter(folds.values())
    assert sorted(sizes) == [0, 1, 2, 3, 4]
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for label in SPGC_CLASSES:
        for labelled in (True, False):
            stratum = [s.scan_id for s in cohort.scans if s.label == label and s.slice_labelled == labelled]
            counts = Counter(folds[s] for s in stratum if s in folds)
            assert max(counts.values()) - min(counts.get(k, 0) for k in range(5)) <= 1


def test_split_file_round_trip_and_its_problems(tmp_path: Path) -> None:
    cohort = spgc_cohort()
    split = make_split(cohort, validation=0.325, seed=0)
    path = tmp_path / "split.csv"
    path.write_text(split_csv(cohort, split), encoding="utf-8")
    assert read_split(path, cohort) == split
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1], "1,ghost,ghost,CAP,true,test"]), encoding="utf-8")
    with pytest.raises(CohortError) as caught:
        read_split(path, cohort)
    for expected in (
        "listed twice: normal001",
        "not in the file: cap060",
        "not in the cohort: ghost",
        "neither training",
    ):
        assert expected in str(caught.value)


def test_a_split_file_with_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    scans = tuple(ScanRecord(f"s{k}", "one", Path(), "CAP") for k in range(2))
    path = tmp_path / "split.csv"
    path.write_text("scan_id,split\ns0,training\ns1,validation\n", encoding="utf-8")
    with pytest.raises(CohortError, match="patient one on both sides"):
        read_split(path, Cohort("two", Path(), SPGC_CLASSES, scans))
