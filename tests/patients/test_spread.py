"""The spread over refits against refits written out by hand, and that of listed studies against NumPy."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from cnr_iemn.patients.answers import train_answers
from cnr_iemn.patients.booster import booster_parameters, train_booster
from cnr_iemn.patients.evidence.beside import Wanted
from cnr_iemn.patients.evidence.beside_tables import evidence_tables
from cnr_iemn.patients.evidence.results import assemble_results
from cnr_iemn.patients.evidence.spread import Repeats, figures_in, figures_of
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.patients.intervals import draw_patients
from cnr_iemn.patients.out_of_fold import paper_features
from cnr_iemn.registry import SPGC_CLASSES
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries

SCANS = make_scans(8, 8)
SCANS["CAP-again"] = FakeScan("CAP", patient_id="CAP-001")  # one patient with two training scans
HARD = make_predictions(scans=SCANS, skill=0.25)
REFITS = 4


def metrics_with(**wanted: Any) -> dict[str, Any]:
    return assemble_results(
        {"resnext50": HARD}, make_summaries(SCANS), cohort="three", rounds=10, seed=5, wanted=Wanted(**wanted)
    ).metrics


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    other = paper_features({"resnext50": make_predictions(scans=SCANS, skill=0.2, seed=1)})
    own = figures_in(metrics_with())
    repeats = Repeats("seed0", "here", {"seed1": other}, {"there": {**own, "accuracy": 0.75}})
    return metrics_with(refits=REFITS, repeats=repeats)


def refit_by_hand(rows: np.ndarray) -> np.ndarray:
    """Return the validation scans' probabilities of a booster trained on these rows, each as often as given."""
    features, scans = group_features({"resnext50": HARD}), HARD.scans
    training, validation = (features[scans["split"] == side] for side in ("training", "validation"))
    labels = scans.loc[training.index, "label"].map(SPGC_CLASSES.index).to_numpy()
    parameters = booster_parameters(n_classes=3, max_depth=6, eta=0.3, seed=5, threads=1)
    booster = xgboost.train(parameters, xgboost.DMatrix(training.to_numpy()[rows], label=labels[rows]), 10)
    return booster.predict(xgboost.DMatrix(validation.to_numpy()))


def test_refits_are_boosters_trained_on_resampled_patients(found: dict[str, Any]) -> None:
    scans = HARD.scans
    training, validation = (scans[scans["split"] == side] for side in ("training", "validation"))
    labels = training["label"].map(SPGC_CLASSES.index).to_numpy()
    truth = validation["label"].map(SPGC_CLASSES.index).to_numpy()
    rng = np.random.default_rng(5)
    declared = refit_by_hand(np.arange(len(training))).argmax(axis=1)
    by_hand: dict[str, list[float]] = {"accuracy": [], "balanced_accuracy": [], "macro_auc": [], "CAP": []}
    changed = []
    for counts in draw_patients(labels, training["patient_id"].tolist(), resamples=REFITS, rng=rng):
        told = refit_by_hand(np.concatenate([[row] * int(n) for row, n in enumerate(counts) if n]))
        answers = told.argmax(axis=1)
        by_hand["accuracy"].append(accuracy_score(truth, answers))
        by_hand["balanced_accuracy"].append(balanced_accuracy_score(truth, answers))
        by_hand["macro_auc"].append(roc_auc_score(truth, told, multi_class="ovr"))
        by_hand["CAP"].append(recall_score(truth, answers, labels=[2], average="macro"))
        changed.append(answers != declared)
    refits = found["spread"]["refits"]
    assert refits["n"] == REFITS
    assert np.any(changed)  # or the figures below would show nothing
    for name, values in {**by_hand, "changed": np.mean(changed, axis=1)}.items():
        summary = refits["sensitivity"]["CAP"] if name == "CAP" else refits[name]
        series = pd.Series(values)
        expected = {
            "mean": series.mean(),
            "sd": series.std(),
            "low": series.quantile(0.05),
            "high": series.quantile(0.95),
        }
        assert summary == pytest.approx(expected), name
    assert refits["changed_by_any"] == pytest.approx(np.any(changed, axis=0).mean())


def test_patients_are_drawn_within_their_class_with_all_their_scans() -> None:
    truth, patients = np.array([0, 0, 0, 1, 1, 1]), ["a", "b", "c", "d", "d", "e"]
    drawn = draw_patients(truth, patients, resamples=2000, rng=np.random.default_rng(0))
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert (drawn[:, 3] == drawn[:, 4]).all()
    assert (drawn[:, 3] + drawn[:, 5] == 2).all()
    assert drawn[:, 0].mean() == pytest.approx(1, abs=0.06)
    assert (drawn[:, 0] == 0).mean() == pytest.approx((2 / 3) ** 3, abs=0.03)


def test_seeds_and_splits_are_listed_with_mean_and_deviation(found: dict[str, Any]) -> None:
    own = figures_in(found)
    seeds, splits = found["spread"]["seeds"], found["spread"]["splits"]
    assert list(seeds["each"]) == ["seed0", "seed1"]
    assert list(splits["each"]) == ["here", "there"]
    assert seeds["each"]["seed0"] == splits["each"]["here"] == own
    other = {"resnext50": make_predictions(scans=SCANS, skill=0.2, seed=1)}
    alone = assemble_results(other, make_summaries(SCANS), cohort="three", rounds=10, seed=5).metrics
    assert seeds["each"]["seed1"] == figures_in(alone)
    two = [own["sensitivity"]["CAP"], alone["sensitivity"]["CAP"]]
    assert seeds["sensitivity"]["CAP"]["mean"] == pytest.approx(np.mean(two))
    assert seeds["sensitivity"]["CAP"]["sd"] == pytest.approx(np.std(two, ddof=1))
    assert splits["accuracy"]["mean"] == pytest.approx((own["accuracy"] + 0.75) / 2)


def test_the_booster_s_own_seed_changes_nothing() -> None:
    features, scans = group_features({"resnext50": HARD}), HARD.scans
    training = scans["split"] == "training"
    labels = scans.loc[training, "label"].tolist()
    boosters = [train_booster(features[training], labels, SPGC_CLASSES, rounds=10, seed=seed) for seed in (0, 1)]
    first, second = (booster.get_dump(dump_format="json") for booster in boosters)
    assert first == second


def test_what_was_not_asked_for_is_null_and_has_no_table() -> None:
    metrics = metrics_with()
    assert metrics["spread"] == {"refits": None, "seeds": None, "splits": None}
    assert not [table for table in evidence_tables(metrics) if "move with training" in table.title]


def test_a_single_class_to_judge_has_no_auc() -> None:
    scans = {name: scan for name, scan in SCANS.items() if scan.split == "training" or scan.label == "CAP"}
    predictions = {"resnext50": make_predictions(scans=scans)}
    told = train_answers(
        paper_features(predictions),
        scans=predictions["resnext50"].scans,
        classes=SPGC_CLASSES,
        rounds=5,
        max_depth=6,
        eta=0.3,
        seed=0,
    )
    assert figures_of(told, SPGC_CLASSES)["macro_auc"] is None
    metrics = assemble_results(
        predictions, make_summaries(scans), cohort="x", rounds=5, wanted=Wanted(refits=2)
    ).metrics
    refits = metrics["spread"]["refits"]
    assert refits["macro_auc"] == {"mean": None, "sd": None, "low": None, "high": None}
    assert refits["sensitivity"]["Normal"]["mean"] is None
    (table,) = [table for table in evidence_tables(metrics) if "move with training" in table.title]
    assert table.rows[-1][3] == "–"


def test_the_table_says_what_each_row_is(found: dict[str, Any]) -> None:
    (table,) = [table for table in evidence_tables(found) if "move with training" in table.title]
    assert [row[0] for row in table.rows] == [
        "declared",
        "4 refits, mean",
        "4 refits, sd",
        "4 refits, 5 to 95%",
        "seed0",
        "seed1",
        "these 2 seeds, mean",
        "these 2 seeds, sd",
        "here",
        "there",
        "these 2 splits, mean",
        "these 2 splits, sd",
    ]
    assert table.rows[0][1] == f"{100 * found['accuracy']:.2f}"
    assert table.rows[9][1] == "75.00"
    sd = found["spread"]["refits"]["sensitivity"]["CAP"]["sd"]
    assert table.rows[2][-1] == f"{100 * sd:.2f}"
    assert table.caption is not None
    assert f"{100 * found['spread']['refits']['changed']['mean']:.2f}% of the validation scans" in table.caption
    assert "exploratory" in table.caption
    assert "selected on this set" in table.caption
