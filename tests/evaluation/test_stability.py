"""The spread over refits against refits by hand, and that of listed studies against NumPy."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.evaluation.stability import Repeats, replicate_metrics
from cnr_iemn.evaluation.study_metrics import Replicate, StudyMetrics
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.stage2.booster import booster_parameters, train_booster
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.stage2.methods.registry import METHODS, stage2_methods
from cnr_iemn.stage2.out_of_fold import paper_scans
from cnr_iemn.stage2.scan_predictions import fit_and_predict
from cnr_iemn.statistics.confidence_intervals import resample_patients
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries

SCANS = make_scans(10, 8)  # so many to train that refits have percentiles
SCANS["CAP-again"] = FakeScan("CAP", patient_id="CAP-001")  # one patient with two training scans
HARD = make_predictions(scans=SCANS, skill=0.25)
REFITS = 4


def replicate_of(metrics: StudyMetrics) -> Replicate:
    auc = metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"]
    names = ("accuracy", "balanced_accuracy", "sensitivity")
    return {**{name: metrics[name] for name in names}, "macro_auc": auc}  # type: ignore[misc]


def metrics_with(**options: Any) -> StudyMetrics:
    return assemble_results(
        {"resnext50": HARD},
        make_summaries(SCANS),
        cohort="three",
        methods=stage2_methods(rounds=10),
        seed=5,
        options=EvidenceOptions(**options),
    ).metrics


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    other = paper_scans({"resnext50": make_predictions(scans=SCANS, skill=0.2, seed=1)})
    own = replicate_of(metrics_with())
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
    reference = refit_by_hand(np.arange(len(training))).argmax(axis=1)
    by_hand: dict[str, list[float]] = {"accuracy": [], "balanced_accuracy": [], "macro_auc": [], "CAP": []}
    changed = []
    for counts in resample_patients(labels, training["patient_id"].tolist(), resamples=REFITS, rng=rng):
        told = refit_by_hand(np.concatenate([[row] * int(n) for row, n in enumerate(counts) if n]))
        answers = told.argmax(axis=1)
        by_hand["accuracy"].append(accuracy_score(truth, answers))
        by_hand["balanced_accuracy"].append(balanced_accuracy_score(truth, answers))
        by_hand["macro_auc"].append(roc_auc_score(truth, told, multi_class="ovr"))
        by_hand["CAP"].append(recall_score(truth, answers, labels=[2], average="macro"))
        changed.append(answers != reference)
    refits = found["stability"]["refits"]
    assert refits["n"] == REFITS
    assert np.any(changed)  # or the figures below would show nothing
    for name, values in {**by_hand, "changes": np.mean(changed, axis=1)}.items():
        summary = refits["sensitivity"]["CAP"] if name == "CAP" else refits[name]
        series = pd.Series(values)
        expected = {
            "mean": series.mean(),
            "sd": series.std(),
            "low": series.quantile(0.05),
            "high": series.quantile(0.95),
        }
        assert summary == pytest.approx(expected), name
    assert refits["changes_any"] == pytest.approx(np.any(changed, axis=0).mean())


def test_patients_are_drawn_within_their_class_with_all_their_scans() -> None:
    truth, patients = np.array([0, 0, 0, 1, 1, 1]), ["a", "b", "c", "d", "d", "e"]
    drawn = resample_patients(truth, patients, resamples=2000, rng=np.random.default_rng(0))
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert (drawn[:, 3] == drawn[:, 4]).all()
    assert (drawn[:, 3] + drawn[:, 5] == 2).all()
    assert drawn[:, 0].mean() == pytest.approx(1, abs=0.06)
    assert (drawn[:, 0] == 0).mean() == pytest.approx((2 / 3) ** 3, abs=0.03)


def test_seeds_and_splits_are_listed_with_mean_and_deviation(found: dict[str, Any]) -> None:
    own = replicate_of(found)
    seeds, splits = found["stability"]["seeds"], found["stability"]["splits"]
    assert list(seeds["replicates"]) == ["seed0", "seed1"]
    assert list(splits["replicates"]) == ["here", "there"]
    assert seeds["replicates"]["seed0"] == splits["replicates"]["here"] == own
    other = {"resnext50": make_predictions(scans=SCANS, skill=0.2, seed=1)}
    alone = assemble_results(
        other, make_summaries(SCANS), cohort="three", methods=stage2_methods(rounds=10), seed=5
    ).metrics
    assert seeds["replicates"]["seed1"] == replicate_of(alone)
    two = [own["sensitivity"]["CAP"], alone["sensitivity"]["CAP"]]
    assert seeds["sensitivity"]["CAP"]["mean"] == pytest.approx(np.mean(two))
    assert seeds["sensitivity"]["CAP"]["sd"] == pytest.approx(np.std(two, ddof=1))
    assert splits["accuracy"]["mean"] == pytest.approx((own["accuracy"] + 0.75) / 2)


def test_the_booster_s_seed_changes_nothing() -> None:
    features, scans = group_features({"resnext50": HARD}), HARD.scans
    training = scans["split"] == "training"
    labels = scans.loc[training, "label"].tolist()
    boosters = [train_booster(features[training], labels, SPGC_CLASSES, rounds=10, seed=seed) for seed in (0, 1)]
    first, second = (booster.get_dump(dump_format="json") for booster in boosters)
    assert first == second


def test_analyses_that_were_not_requested_are_null_and_have_no_table() -> None:
    metrics = metrics_with()
    assert metrics["stability"] == {"refits": None, "seeds": None, "splits": None}
    assert not [table for table in evidence_tables(metrics) if table.title.startswith("Stability")]


def test_a_single_class_to_judge_has_no_auc() -> None:
    scans = {name: scan for name, scan in SCANS.items() if scan.split == "training" or scan.label == "CAP"}
    predictions = {"resnext50": make_predictions(scans=scans)}
    method, table = METHODS["XGBoost on few features"], predictions["resnext50"].scans
    told = fit_and_predict(method, paper_scans(predictions), table, seed=0)
    assert replicate_metrics(told, SPGC_CLASSES)["macro_auc"] is None
    metrics = assemble_results(
        predictions,
        make_summaries(scans),
        cohort="x",
        methods=stage2_methods(rounds=5),
        options=EvidenceOptions(refits=2),
    ).metrics
    refits = metrics["stability"]["refits"]
    assert refits["macro_auc"] == {"mean": None, "sd": None, "low": None, "high": None}
    assert refits["sensitivity"]["Normal"]["mean"] is None
    (table,) = [table for table in evidence_tables(metrics) if table.title.startswith("Stability")]
    assert table.rows[-1][3] == "–"


def test_the_table_says_what_each_row_is(found: dict[str, Any]) -> None:
    (table,) = [table for table in evidence_tables(found) if table.title.startswith("Stability")]
    assert [row[0] for row in table.rows] == [
        "primary",
        "4 refits, mean",
        "4 refits, sd",
        "4 refits, 5 to 95%",
        "seed0",
        "seed1",
        "2 seeds, mean",
        "2 seeds, sd",
        "here",
        "there",
        "2 splits, mean",
        "2 splits, sd",
    ]
    assert table.rows[0][1] == f"{100 * found['accuracy']:.2f}"
    assert table.rows[9][1] == "75.00"
    sd = found["stability"]["refits"]["sensitivity"]["CAP"]["sd"]
    assert table.rows[2][-1] == f"{100 * sd:.2f}"
    assert table.caption is not None
    assert f"{100 * found['stability']['refits']['changes']['mean']:.2f}% of the validation scans" in table.caption
    assert "exploratory" in table.caption
    assert "selected on this set" in table.caption
