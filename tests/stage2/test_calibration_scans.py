"""Temperature and thresholds hold for new scans where they are learnt on scans that no network has seen."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.evaluation.operating_point import operating_point
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.schemas import TRAINING, VALIDATION, probability_columns
from cnr_iemn.stage2.calibration import (
    CalibrationScans,
    Calibrator,
    calibration_evidence,
    calibration_scans,
    cross_validated_probabilities,
)
from cnr_iemn.stage2.methods.boosted import Boosted, TreeSettings
from cnr_iemn.stage2.methods.descriptions import PERCENTAGES
from cnr_iemn.stage2.methods.registry import stage2_methods
from cnr_iemn.stage2.out_of_fold import paper_scans
from cnr_iemn.stage2.scan_predictions import fit_and_predict
from tests.builders import FakeScan, make_predictions, make_summaries

SEEN, UNSEEN, NEW = (25, 60, 30), (40, 25, 25), (30, 50, 30)
"""Training scans of each class that have trained the network and that have not; validation scans."""


def cohort(seen: tuple[int, ...], unseen: tuple[int, ...], new: tuple[int, ...]) -> dict[str, FakeScan]:
    kinds = ((TRAINING, True, seen), (TRAINING, False, unseen), (VALIDATION, True, new))
    return {
        f"{label}-{split}-{labelled}-{k:03d}": FakeScan(label, split, 20, labelled)
        for split, labelled, counts in kinds
        for label, count in zip(SPGC_CLASSES, counts, strict=True)
        for k in range(count)
    }


def predictions(scans: dict[str, FakeScan], seed: int = 0) -> Predictions:
    """Return those of a network that knows the scans that it has seen nearly by heart."""
    seen = {name: scan for name, scan in scans.items() if scan.split == TRAINING and scan.slice_labelled}
    sure = make_predictions(scans=seen, seed=seed, skill=0.9)
    unsure = make_predictions(scans={name: scans[name] for name in scans if name not in seen}, seed=seed, skill=0.25)
    return replace(sure, table=pd.concat([sure.table, unsure.table], ignore_index=True))


def shares(seed: int) -> np.ndarray:
    """Return scans found and scans answered among the new ones: learnt on unseen scans, and learnt on all."""
    made = predictions(cohort(SEEN, UNSEEN, NEW), seed)
    method = Boosted(PERCENTAGES, TreeSettings(rounds=15, max_depth=3))
    learn = partial(fit_and_predict, method, table=made.scans, seed=0)
    scans = paper_scans({"resnext50": made})
    answers = learn(scans)
    training = answers.patients.loc[list(scans.training_ids)]
    nested = cross_validated_probabilities(scans, training, learn, seed=seed)
    assert nested is not None
    truth, new = (np.array([SPGC_CLASSES.index(k) for k in rows["label"]]) for rows in (training, answers.held_out))
    told = answers.held_out[probability_columns(SPGC_CLASSES)].to_numpy()
    unseen = calibration_scans(training, scans.unseen)
    assert unseen.rows.sum() == sum(UNSEEN)
    found = []
    for chosen in (unseen, CalibrationScans(np.ones(len(truth), bool), np.ones(len(truth)), optimistic=True)):
        given = nested, truth, told, new, SPGC_CLASSES
        point = operating_point(*given, scans=chosen, label="COVID-19", sensitivity=0.9)
        undecided = calibration_evidence(*given, scans=chosen, share=0.9, seed=0)["undecided"]
        found.append([point["sensitivity"]["value"] * NEW[1], undecided["share_answered"] * sum(NEW)])
    return np.round(found)


@pytest.mark.slow
def test_what_was_wanted_holds_with_unseen_scans_and_fails_with_seen_ones() -> None:
    cohorts = 4
    with_unseen, with_all = sum(shares(seed) for seed in range(cohorts)) / (cohorts * np.array([NEW[1], sum(NEW)]))
    # of the new scans that are counted, and of those that the thresholds come from
    error = np.sqrt(0.09 / cohorts * (1 / np.array([NEW[1], sum(NEW)]) + 1 / np.array([UNSEEN[1], sum(UNSEEN)])))
    assert (np.abs(with_unseen - 0.9) < 3 * error).all()
    assert (with_all < 0.9 - 3 * error).all()


def facts(labels: str, unseen: str = "") -> tuple[pd.DataFrame, frozenset[str]]:
    """Return training scans, a letter each, which is their class, and the unseen ones, by their places."""
    names = [f"s{k}" for k in range(len(labels))]
    return pd.DataFrame({"label": list(labels)}, names), frozenset(f"s{k}" for k in map(int, unseen.split()))


def test_twenty_unseen_scans_of_each_class_are_enough_and_nineteen_are_not() -> None:
    for number, optimistic in ((20, False), (19, True)):
        training, unseen = facts("N" * 70 + "C" * 60, " ".join(map(str, [*range(40), *range(70, 70 + number)])))
        found = calibration_scans(training, unseen)
        assert found.optimistic is optimistic
        assert found.rows.sum() == (130 if optimistic else 60)
    training, unseen = facts("NNC", "0 1 2")  # out of fold: few, but none of them seen
    assert not calibration_scans(training, unseen).optimistic


def test_classes_weigh_as_much_as_among_all_training_scans() -> None:
    training, unseen = facts("N" * 100 + "C" * 20, " ".join(map(str, range(80, 120))))
    found = calibration_scans(training, unseen)
    of_class = training["label"][found.rows].to_numpy()
    assert found.weights.mean() == pytest.approx(1)
    assert found.weights[of_class == "N"].sum() / found.weights[of_class == "C"].sum() == pytest.approx(5)


def test_a_scan_is_seen_with_another_of_its_patient_and_by_the_choice_of_a_checkpoint() -> None:
    scans = cohort((3, 3, 3), (3, 3, 3), (2, 2, 2))
    scans = {name: replace(scan, patient_id=name) for name, scan in scans.items()}
    trained, shared, chose, free = (
        f"CAP-training-{kind}" for kind in ("True-000", "False-000", "False-001", "False-002")
    )
    scans[shared] = replace(scans[shared], patient_id=trained)
    made = make_predictions(scans=scans)
    made.table.loc[made.table["scan_id"] == chose, "used_for_selection"] = True
    unseen = paper_scans({"resnext50": made}).unseen
    assert free in unseen
    assert not unseen & {trained, shared, chose}
    assert all(scans[name].split == TRAINING for name in unseen)


@pytest.mark.parametrize("optimistic", [True, False])
def test_the_basis_is_told_beside_every_figure_and_kept(optimistic: bool) -> None:
    made = predictions(cohort((20, 20, 20), (4, 4, 4) if optimistic else (20, 20, 20), (4, 4, 4)))
    results = assemble_results(
        {"resnext50": made},
        make_summaries(cohort((20, 20, 20), (20, 20, 20), (4, 4, 4))),
        cohort="x",
        methods=stage2_methods(rounds=5),
        options=EvidenceOptions(),
    )
    metrics = results.metrics
    n = 72 if optimistic else 60
    for name in ("calibration", "operating_point"):
        assert (metrics[name]["learnt_on"], metrics[name]["optimistic"]) == (n, optimistic)
    captions = [
        str(table.caption)
        for table in evidence_tables(metrics)
        if "fitted on" in str(table.caption) or "set on" in str(table.caption)
    ]
    assert len(captions) == 3
    said = "optimistic" if optimistic else "did not train the networks"
    assert all(said in caption and f"{n} training scans" in caption for caption in captions)
    assert results.calibration is not None
    assert (results.calibration.n, results.calibration.optimistic) == (n, optimistic)
    earlier = {"temperature": 1.0, "threshold": 0.5, "answer_share": 0.9, "n": 9, "cohort": "x", "date": "2021-06-30"}
    assert Calibrator(**earlier).optimistic is None
