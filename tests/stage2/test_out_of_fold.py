"""Stage 2 out of fold: which network scored which scan, traced by ids; what has leaked is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.booster import predict_probabilities, train_booster
from cnr_iemn.stage2.group_features import features_of_sets, group_features, percentages
from cnr_iemn.stage2.out_of_fold import check_folds, out_of_fold_scans
from tests.builders import make_predictions, make_scans, make_summaries

pytestmark = pytest.mark.slow

MODELS = ("resnext50", "densenet161")
FOLDS = 3
SCANS = {
    scan_id: replace(scan, fold=number % FOLDS if scan.split == TRAINING else None, slice_labelled=number % 4 != 3)
    for scan_id, scan in make_scans(9, 6).items()
    for number in [int(scan_id[-3:])]
}


def fold_run(model: str, fold: int, **changes: object) -> Predictions:
    """A run that holds out one fold; its predictions differ from those of the other folds."""
    made = make_predictions(model, SCANS, seed=10 + fold, skill=0.8, checkpoint="last")
    table = made.table.copy()
    table["seen_in_training"] &= (table["fold"] != fold).fillna(True)
    table["used_for_selection"] = False
    seen = tuple(table.loc[table["seen_in_training"], "scan_id"].unique())
    metadata = {"tag": f"seed0-fold{fold}", "seed": 0, "training_scan_ids": seen, **changes}
    return Predictions(table, replace(made.metadata, **metadata))


def study() -> tuple[dict[str, Predictions], dict[int, dict[str, Predictions]]]:
    whole = {model: make_predictions(model, SCANS) for model in MODELS}
    return whole, {fold: {model: fold_run(model, fold) for model in MODELS} for fold in range(FOLDS)}


def test_each_training_scan_is_scored_by_networks_that_have_not_seen_it() -> None:
    whole, folds = study()
    check_folds(whole, folds)
    found = out_of_fold_scans(folds)
    scans = whole["resnext50"].scans
    assert list(found.training_ids) == list(scans.index[scans["split"] == TRAINING])
    unlabelled = [name for name, scan in SCANS.items() if not scan.slice_labelled and scan.split == TRAINING]
    assert set(unlabelled) <= set(found.training_ids)
    for scan_id, array in zip(found.training_ids, found.training, strict=True):
        own = folds[SCANS[scan_id].fold]
        assert all(scan_id not in each.metadata.training_scan_ids for each in own.values())
        np.testing.assert_array_equal(percentages(array), group_features(own).loc[scan_id])
    assert set(found.held_out) == set(scans.index[scans["split"] == VALIDATION])
    tables = features_of_sets(found.held_out, MODELS, whole["resnext50"].metadata.classes)
    assert len(tables) == FOLDS
    for fold, table in enumerate(tables):
        pd.testing.assert_frame_equal(table, group_features(folds[fold]).loc[table.index])


def test_probabilities_are_averaged_never_the_features() -> None:
    whole, folds = study()
    results = assemble_results(whole, make_summaries(SCANS), cohort="three", folds=folds)
    found, classes = out_of_fold_scans(folds), whole["resnext50"].metadata.classes
    labels = whole["resnext50"].scans.loc[list(found.training_ids), "label"].tolist()
    (training,) = features_of_sets(
        {name: (array,) for name, array in zip(found.training_ids, found.training, strict=True)}, MODELS, classes
    )
    tables = features_of_sets(found.held_out, MODELS, classes)
    booster = train_booster(training, labels, classes)
    expected = np.mean([predict_probabilities(booster, table) for table in tables], axis=0)
    held_out = results.patients[results.patients["split"] == VALIDATION]
    np.testing.assert_allclose(held_out.filter(like="p_").to_numpy(), expected)
    assert not np.allclose(expected, predict_probabilities(booster, sum(tables) / FOLDS))


def test_the_primary_mode_stands_beside_the_papers_and_the_third() -> None:
    whole, folds = study()
    metrics = assemble_results(whole, make_summaries(SCANS), cohort="three", folds=folds).metrics
    alone = assemble_results(whole, make_summaries(SCANS), cohort="three").metrics
    assert (metrics["features"], metrics["folds"], metrics["selected_on"]) == ("out_of_fold", FOLDS, None)
    assert (alone["features"], alone["folds"], alone["selected_on"]) == ("paper", None, VALIDATION)
    variants = metrics["variants"]
    assert [name for name, each in variants.items() if each["primary"]] == ["out_of_fold"]
    assert variants["out_of_fold"]["confusion_matrix"] == metrics["confusion_matrix"]
    assert variants["paper"]["confusion_matrix"] == alone["confusion_matrix"]
    assert variants["out_of_fold_full_data_networks"]["selected_on"] == VALIDATION
    assert set(metrics["variant_comparisons"]) == {"paper", "out_of_fold_full_data_networks"}
    told = [(each["calibration"]["learnt_on"], each["calibration"]["optimistic"]) for each in (metrics, alone)]
    n = sum(scan.split == TRAINING for scan in SCANS.values())
    assert told == [(n, False), (n, True)]
    (table,) = [each for each in evidence_tables(metrics) if each.title == "Stage-2 variants, %"]
    assert "selected on this set" in str(table.rows)
    assert table.title not in {each.title for each in evidence_tables(alone)}
    tested = assemble_results(
        whole, make_summaries(SCANS), cohort="three", options=EvidenceOptions(permutations=3)
    ).metrics
    assert "3 permutations" in str(evidence_tables(tested)[1].rows)


def test_the_features_say_whose_networks_made_them() -> None:
    whole, folds = study()
    table = assemble_results(whole, make_summaries(SCANS), cohort="three", folds=folds).features
    assert list(table.columns[:2]) == ["scan_id", "fold"]
    of_training = table[table["scan_id"].isin([name for name, scan in SCANS.items() if scan.split == TRAINING])]
    assert of_training["fold"].tolist() == [SCANS[name].fold for name in of_training["scan_id"]]
    assert (table["scan_id"].value_counts()[[n for n, s in SCANS.items() if s.split == VALIDATION]] == FOLDS).all()


def leak(predictions: Predictions, scan_id: str) -> Predictions:
    table = predictions.table.copy()
    table.loc[table["scan_id"] == scan_id, "seen_in_training"] = True
    return Predictions(table, predictions.metadata)


def test_a_network_that_saw_its_fold_is_refused() -> None:
    whole, folds = study()
    victim = next(name for name, scan in SCANS.items() if scan.fold == 1)
    folds[1]["densenet161"] = leak(folds[1]["densenet161"], victim)
    with pytest.raises(RunError, match=rf"densenet161's run seed0-fold1 was trained on {victim} .* of fold 1.*fold=1"):
        check_folds(whole, folds)


def test_another_scan_of_the_same_patient_is_a_leak_too() -> None:
    scans = {**SCANS, "CAP-000": replace(SCANS["CAP-000"], patient_id="twin", fold=0, slice_labelled=True)}
    scans["CAP-004"] = replace(SCANS["CAP-004"], patient_id="twin", fold=1, slice_labelled=True)
    made = make_predictions("resnext50", scans, checkpoint="last", tag="seed0-fold0")
    table = made.table.assign(used_for_selection=False)
    table["seen_in_training"] = table["scan_id"] == "CAP-004"
    leaky = Predictions(table, replace(made.metadata, training_scan_ids=("CAP-004",)))
    whole = {"resnext50": make_predictions("resnext50", scans)}
    with pytest.raises(RunError, match=r"trained on CAP-000 .* of fold 0.*another scan of the same patient"):
        check_folds(whole, {0: {"resnext50": leaky}})


def test_networks_chosen_on_the_validation_scans_are_refused() -> None:
    whole, folds = study()
    one = folds[2]["resnext50"]
    chosen = one.table.assign(used_for_selection=one.table["split"] == VALIDATION)
    folds[2]["resnext50"] = Predictions(chosen, one.metadata)
    with pytest.raises(RunError, match=r"seed0-fold2 kept the checkpoint that was best.*trainer\.checkpoint=last"):
        check_folds(whole, folds)


def test_folds_of_another_store_or_split_are_refused() -> None:
    whole, folds = study()
    folds[0] = {model: fold_run(model, 0, store="other") for model in MODELS}
    with pytest.raises(RunError, match=r"seed0 was predicted on store 5707e, .*fold0 on store other"):
        check_folds(whole, folds)
    folds[0] = {model: fold_run(model, 0, split_sha256="other") for model in MODELS}
    with pytest.raises(RunError, match=r"on split 5b117, .* on split other"):
        check_folds(whole, folds)


def test_a_scan_of_a_fold_without_networks_is_named() -> None:
    whole, folds = study()
    del folds[2]
    with pytest.raises(RunError, match=r"Training scan \S+-002 .* belongs to fold 2, .* folds 0, 1"):
        check_folds(whole, folds)
