"""Pseudo-labels come from networks that have not seen the scan, for training scans alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cnr_iemn.config.schema.settings import DataSettings, SplitSettings, TrainSettings
from cnr_iemn.config.validation import check_settings
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import UNLABELLED, Cohort, ScanRecord
from cnr_iemn.data.predictions.slice_predictions import Predictions, write_predictions
from cnr_iemn.data.splits import split_csv, split_sha256
from cnr_iemn.errors import ConfigurationError, RunError
from cnr_iemn.schemas import TRAINING, VALIDATION, probability_columns
from cnr_iemn.stage1.training.pseudo_labels import (
    PseudoLabels,
    describe_pseudo_labels,
    gated_labels,
    make_pseudo_labels,
)
from cnr_iemn.stage1.training.roles import Roles
from tests.builders import FakeScan, make_predictions

FOLDS = 2
Change = Callable[[Predictions, int], Predictions]


def fake_scans() -> dict[str, FakeScan]:
    """Of each class four training scans, of which two are labelled, and two validation scans, of which one is."""
    return {
        f"{label}-{number}": FakeScan(
            label,
            VALIDATION if number >= 4 else TRAINING,
            n_slices=12,
            slice_labelled=number % 2 == 0,
            fold=None if number >= 4 else number // 2,
        )
        for label in SPGC_CLASSES
        for number in range(6)
    }


def cohort_of(scans: dict[str, FakeScan]) -> Cohort:
    def infected(scan: FakeScan) -> np.ndarray | None:
        if not scan.slice_labelled or scan.label == "Normal":
            return None
        return np.array([name != "Normal" for name in scan.slice_truth(SPGC_CLASSES)])

    records = [
        ScanRecord(name, name, Path(), scan.label, scan.slice_labelled, infected(scan)) for name, scan in scans.items()
    ]
    return Cohort("small", Path("nowhere"), SPGC_CLASSES, tuple(records))


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., PseudoLabels]:
    """Write the runs of both folds of two models, changed as the test wants, and return their pseudo-labels."""
    scans = fake_scans()
    cohort = cohort_of(scans)
    split = {name: scan.split for name, scan in scans.items()}
    fold = {name: scan.fold for name, scan in scans.items() if scan.fold is not None}

    def label(change: Change = lambda run, fold: run, confidence: float = 0.6) -> PseudoLabels:
        for model in ("resnext50", "densenet161"):
            for k in range(FOLDS):
                run = fold_run(model, scans, k, split_sha256(split_csv(cohort, split)))
                path = tmp_path / "one" / model / f"seed0-fold{k}" / "predictions.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_predictions(path, change(run, k))
        return make_pseudo_labels(cohort, split, fold, study=tmp_path / "one", tag="seed0", confidence=confidence)

    return label


def fold_run(model: str, scans: dict[str, FakeScan], k: int, sha256: str) -> Predictions:
    trained = [n for n, s in scans.items() if s.split == TRAINING and s.slice_labelled and s.fold != k]
    run = make_predictions(
        model, scans, tag=f"seed0-fold{k}", split_sha256=sha256, training_scan_ids=tuple(trained), checkpoint="last"
    )
    seen = run.table["scan_id"].isin(trained)
    return replace(run, table=run.table.assign(seen_in_training=seen, used_for_selection=False))


def with_answer(run: Predictions, rows: "pd.Series[bool]", name: str) -> Predictions:
    """Return the run with the probability 0.9 of a class in some rows."""
    table = run.table.copy()
    for column in probability_columns(SPGC_CLASSES):
        table.loc[rows, column] = np.float32(0.9 if column == f"p_{name}" else 0.05)
    return replace(run, table=table)


def test_a_slice_shows_the_class_of_its_patient_or_nothing_or_is_unknown() -> None:
    probabilities = np.array(
        [[0.1, 0.1, 0.8], [0.09, 0.01, 0.9], [0.01, 0.09, 0.9], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32
    )
    assert gated_labels(probabilities, 1, confidence=0.9).tolist() == [UNLABELLED, 0, 1, UNLABELLED, 0]
    assert gated_labels(probabilities, 2, confidence=0.9).tolist() == [UNLABELLED, 2, 2, 0, 2]


def test_unlabelled_diseased_training_scans_are_labelled_and_no_others(
    study: Callable[..., PseudoLabels],
) -> None:
    pseudo = study()
    assert set(pseudo.labels) == {"COVID-19-1", "COVID-19-3", "CAP-1", "CAP-3"}
    assert pseudo.networks == 2
    for name, labels in pseudo.labels.items():
        assert set(labels.tolist()) <= {UNLABELLED, 0, 1 if name.startswith("COVID") else 2}
        assert len(labels) == 12


def test_each_scan_is_answered_by_its_own_fold_alone(study: Callable[..., PseudoLabels]) -> None:
    """Network k says COVID-19 of fold k and Normal of everything else; every slice must come out as infected."""

    def change(run: Predictions, k: int) -> Predictions:
        own = run.table["fold"] == k
        return with_answer(with_answer(run, own.fillna(False), "COVID-19"), ~own.fillna(False), "Normal")

    pseudo = study(change)
    assert {labels.tolist().count(1) for name, labels in pseudo.labels.items() if name.startswith("COVID")} == {12}


def test_answers_of_validation_scans_change_nothing(study: Callable[..., PseudoLabels]) -> None:
    before = study()
    after = study(lambda run, k: with_answer(run, run.table["split"] == VALIDATION, "CAP"))
    assert before.labels.keys() == after.labels.keys()
    for name, labels in before.labels.items():
        np.testing.assert_array_equal(labels, after.labels[name])
    assert dict(before.checked) == dict(after.checked)


@pytest.mark.parametrize("model", ["resnext50", "densenet161"])
def test_a_network_that_has_seen_the_scan_or_was_selected_is_refused(
    study: Callable[..., PseudoLabels], model: str
) -> None:
    def seen(run: Predictions, k: int) -> Predictions:
        if run.metadata.model != model or k == 0:
            return run
        rows = run.table["seen_in_training"] | (run.table["scan_id"] == "CAP-2")
        return replace(run, table=run.table.assign(seen_in_training=rows))

    with pytest.raises(RunError, match=rf"{model}'s run seed0-fold1 was trained on CAP-2, which it must label"):
        study(seen)
    with pytest.raises(RunError, match="was selected on the validation scans"):
        study(lambda run, k: replace(run, table=run.table.assign(used_for_selection=run.table["split"] == VALIDATION)))


def test_another_split_or_other_folds_are_refused(study: Callable[..., PseudoLabels]) -> None:
    with pytest.raises(RunError, match="made on another split or cohort"):
        study(lambda run, k: replace(run, metadata=replace(run.metadata, split_sha256="0" * 64)))
    with pytest.raises(RunError, match=r"has other folds than this study\. Give the same data\.folds"):
        study(lambda run, k: replace(run, table=run.table.assign(fold=1 - run.table["fold"], seen_in_training=False)))


def test_missing_runs_are_named_with_the_command(tmp_path: Path) -> None:
    scans = fake_scans()
    split = {name: scan.split for name, scan in scans.items()}
    fold = {name: scan.fold for name, scan in scans.items() if scan.fold is not None}
    with pytest.raises(RunError, match=r"seed0-fold0, seed0-fold1 of a model.*data\.fold=0,1"):
        make_pseudo_labels(cohort_of(scans), split, fold, study=tmp_path / "two", tag="seed0", confidence=0.9)


def test_counts_precision_and_recall_are_told(tmp_path: Path, study: Callable[..., PseudoLabels]) -> None:
    cohort = replace(cohort_of(fake_scans()), root=tmp_path)
    pseudo = study(lambda run, k: with_answer(run, run.table["label"] == "CAP", "CAP"))
    assert len([line for line in describe_pseudo_labels(pseudo, cohort) if "truth" in line]) == 0
    (tmp_path / "truth").mkdir()
    rows = [(f"CAP-{k}", "000011110000") for k in (1, 3)] + [(f"COVID-19-{k}", "0" * 12) for k in (1, 3)]
    pd.DataFrame(rows, columns=["scan_id", "infected"]).to_parquet(tmp_path / "truth" / "scans.parquet")
    lines = describe_pseudo_labels(pseudo, cohort)
    assert lines[3] == (
        "Pseudo-labels of 2 unlabelled CAP scans by 2 networks that have not seen them: 24 slices CAP, 0 Normal, "
        "0 unknown and not used"
    )
    figures = "precision 33.3%, recall 100.0% of 8 infected slices"
    assert lines[4] == f"  the same on the labelled CAP training scans: {figures}"
    assert f"by the phantom's truth: {figures} (phantom" in lines[5]
    assert describe_pseudo_labels(PseudoLabels(), cohort) == []


def test_only_training_scans_with_pseudo_labels_train(study: Callable[..., PseudoLabels]) -> None:
    scans = fake_scans()
    cohort = cohort_of(scans)
    split = {name: scan.split for name, scan in scans.items()}
    fold = {name: scan.fold for name, scan in scans.items() if scan.fold is not None}
    roles = Roles(split, fold, 0, pseudo=study())
    trained = {scan.scan_id for scan in cohort.scans if roles.trains(scan)}
    assert trained == {"Normal-2", "COVID-19-2", "COVID-19-3", "CAP-2", "CAP-3"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pseudo_labels": "second"}, "is this very study"),
        ({"pseudo_labels": "a/b/c"}, "becomes a folder's name"),
        ({"pseudo_labels": "one", "slice_labels": "from_patient"}, "leaves none"),
        ({"pseudo_labels": "one", "pseudo_confidence": 0.5}, "out of range"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    data = DataSettings(name="x", reader="covid_ct_md", root="/x", split=SplitSettings(), **changes)
    settings = TrainSettings(study="second", data=data)
    with pytest.raises(ConfigurationError, match=message):
        check_settings(settings)
