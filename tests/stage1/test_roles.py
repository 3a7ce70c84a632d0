"""Classes without validation scans are reported before training, with the remedy."""

from pathlib import Path

import pytest

from cnr_iemn.config.schema.settings import DataSettings, SplitSettings
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.splits import make_split
from cnr_iemn.stage1.training.roles import cohort_notes


def small(n: int, *, more: int = 0) -> Cohort:
    """Return a cohort of n healthy and n + more sick scans."""
    labels = ["healthy"] * n + ["sick"] * (n + more)
    scans = tuple(ScanRecord(f"s{k}", f"s{k}", Path(), label) for k, label in enumerate(labels))
    return Cohort("small", Path(), ("healthy", "sick"), scans, notes=("a note of the reader",))


def notes_of(cohort: Cohort, split: SplitSettings) -> list[str]:
    sides = make_split(cohort, validation=split.validation, seed=0)
    return cohort_notes(cohort, sides, DataSettings(name="small", reader="manifest", split=split))


@pytest.mark.parametrize("n", [2, 3, 5, 7, 9, 30])
def test_the_recommended_share_gives_every_class_a_validation_scan(n: int) -> None:
    share = 0.9 / n
    first, note = notes_of(small(n), SplitSettings(validation=share))
    assert first == "a note of the reader"
    assert (
        f"No validation scan of class healthy, sick: nothing will be measured of them. Of the patients ({n} of" in note
    )
    advised = float(note.partition("data.split.validation=")[2].partition("data.split.validation=")[2].split()[0])
    assert len(notes_of(small(n), SplitSettings(validation=advised))) == 1


def test_only_the_class_that_is_too_small_is_named() -> None:
    (_, note) = notes_of(small(3, more=7), SplitSettings(validation=0.325))
    assert "No validation scan of class healthy: nothing will be measured of it. Of the patients (3 of healthy)" in note
    assert "data.split.validation=0.34 or more, hold out folds (data.folds=3 data.fold=0" in note


def test_a_class_of_one_patient_and_a_split_from_a_file() -> None:
    (_, note) = notes_of(small(1), SplitSettings(validation=0.325))
    assert "it needs more patients" in note
    sides = make_split(small(3), validation=0.0, seed=0)
    data = DataSettings(name="small", reader="manifest", split=SplitSettings(file="split.csv"))
    assert "as the split that was given says" in cohort_notes(small(3), sides, data)[1]


def test_no_note_if_no_validation_scans_were_requested() -> None:
    assert notes_of(small(3), SplitSettings(validation=0.0)) == ["a note of the reader"]
    assert notes_of(small(4), SplitSettings(validation=0.325)) == ["a note of the reader"]
