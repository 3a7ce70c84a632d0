"""Comparison of two ensembles on the same scans, against statsmodels and a loop by hand; refused pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.study_comparison import compare_studies
from cnr_iemn.evaluation.study_metrics import write_metrics
from cnr_iemn.report.tables.external import paired_table
from cnr_iemn.statistics.confidence_intervals import paired_bootstrap

CLASSES = ("None", "COVID-19", "CAP")  # the first would be a missing value to a careless reader
COLUMNS = [f"p_{name}" for name in CLASSES]
N = 63  # ten patients of each class and more, so that a bootstrap has its interval
TRUTH = np.arange(N) % 3


def told(skill: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shown = np.where(rng.random(N) < skill, TRUTH, rng.integers(3, size=N))
    return 0.5 * np.eye(3)[shown] + 0.5 * rng.dirichlet(np.ones(3), size=N)


def table(probabilities: np.ndarray) -> pd.DataFrame:
    """Rows of patients.csv: every third patient has two scans; a training scan that must not count."""
    rows = pd.DataFrame(
        {
            "patient_id": [f"p{k // 6 * 6 + k % 3 if k % 6 in (1, 4) else k}" for k in range(N)],
            "split": "validation",
            "label": [CLASSES[k] for k in TRUTH],
            "predicted": [CLASSES[k] for k in probabilities.argmax(axis=1)],
        },
        index=pd.Index([f"s{k}" for k in range(N)], name="scan_id"),
    )
    rows[COLUMNS] = probabilities
    training = rows.iloc[:1].assign(split="training").rename(index={"s0": f"t{probabilities.sum()}"})
    return pd.concat([training, rows.assign(correct=rows["label"] == rows["predicted"])])


def write(runs: Path, study: str, patients: pd.DataFrame, ensemble: str = "all", **metrics: object) -> None:
    about = {"schema_version": 2, "cohort": "three", "classes": list(CLASSES), **metrics}
    write_metrics(runs / study / "ensembles" / ensemble, patients, about)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write(tmp_path, "a", table(told(0.9, 0)))
    write(tmp_path, "b", table(told(0.6, 1)).iloc[::-1])  # another order of the same scans
    return tmp_path


@pytest.fixture
def found(runs: Path) -> dict[str, Any]:
    return compare_studies(runs, "a", "all", "b", on="validation")[0]


def test_accuracies_are_compared_as_statsmodels_does(found: dict[str, Any]) -> None:
    right = [told(0.9, 0).argmax(axis=1) == TRUTH, told(0.6, 1).argmax(axis=1) == TRUTH]
    test = found["accuracy"]["comparison"]
    wins, losses = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
    assert (found["n"], test["only_first"], test["only_second"]) == (N, wins, losses)
    assert min(wins, losses) > 0
    assert test["p"] == pytest.approx(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)
    assert test["difference"] == pytest.approx(right[0].mean() - right[1].mean())
    assert [found["accuracy"][each]["value"] for each in ("first", "second")] == [r.mean() for r in right]
    assert test["low"] < test["difference"] < test["high"]


def test_sensitivities_are_of_their_class(found: dict[str, Any]) -> None:
    for k, name in enumerate(CLASSES):
        each = found["sensitivity"][name]
        recalls = [(told(*how).argmax(axis=1)[k == TRUTH] == k).mean() for how in ((0.9, 0), (0.6, 1))]
        assert [each["first"]["value"], each["second"]["value"]] == pytest.approx(recalls)
        assert each["difference"]["value"] == pytest.approx(recalls[0] - recalls[1])
        assert each["difference"]["low"] <= each["difference"]["value"] <= each["difference"]["high"]


def test_figures_and_their_differences(found: dict[str, Any]) -> None:
    def figures(probabilities: np.ndarray) -> dict[str, float]:
        predicted = probabilities.argmax(axis=1)
        return {
            "balanced_accuracy": recall_score(TRUTH, predicted, average="macro"),
            "macro_f1": f1_score(TRUTH, predicted, average="macro"),
            "macro_auc": np.mean([roc_auc_score(k == TRUTH, probabilities[:, k]) for k in range(3)]),
        }

    first, second = figures(told(0.9, 0)), figures(told(0.6, 1))
    assert set(found["metrics"]) == set(first)
    for name, each in found["metrics"].items():
        assert each["first"]["value"] == pytest.approx(first[name])
        assert each["difference"]["value"] == pytest.approx(first[name] - second[name])
        assert each["difference"]["low"] < each["difference"]["value"] < each["difference"]["high"]


def test_the_bootstrap_draws_one_set_of_patients_for_both() -> None:
    owners = table(told(0.9, 0))["patient_id"].iloc[1:].tolist()
    pair = told(0.9, 0), told(0.6, 1)
    estimate = paired_bootstrap(TRUTH.tolist(), pair, owners, resamples=1500, seed=1)["macro_auc"]
    rng = np.random.default_rng(5)
    by_patient = {patient: [k for k in range(N) if owners[k] == patient] for patient in dict.fromkeys(owners)}
    assert max(map(len, by_patient.values())) > 1

    def area(true: np.ndarray, scores: np.ndarray) -> float:
        return float((scores[true][:, None] > scores[~true]).mean())

    differences = []
    for _ in range(1500):
        rows: list[int] = []
        for label in range(3):
            members = [patient for patient, scans in by_patient.items() if TRUTH[scans[0]] == label]
            rows += [k for patient in rng.choice(members, len(members)) for k in by_patient[patient]]
        auc = [np.mean([area(TRUTH[rows] == k, p[rows, k]) for k in range(3)]) for p in pair]
        differences.append(auc[0] - auc[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=0.012)
    same = paired_bootstrap(TRUTH.tolist(), (pair[0], pair[0]), owners, resamples=50)
    assert all(each == {"value": 0.0, "low": None, "high": None} for each in same.values())


def test_the_other_ensemble_and_an_external_set_can_be_selected(runs: Path) -> None:
    write(runs, "a", table(told(0.6, 1)), "densenet161", notice=PHANTOM_NOTICE)
    found, path = compare_studies(runs, "a", "all", "a/densenet161", on="validation")
    assert path == runs / "a/ensembles/all/comparison-a-densenet161.json"
    assert (found["first"], found["second"], found["notice"]) == ("a/all", "a/densenet161", PHANTOM_NOTICE)
    for study, how in (("a", (0.9, 0)), ("b", (0.6, 1))):
        rows = table(told(*how)).iloc[1:].drop(columns="split")
        rows.iloc[7:9, rows.columns.get_indexer(["predicted", *COLUMNS])] = np.nan  # not answered
        about = {"schema_version": 2, "cohort": f"of {study}", "classes": list(CLASSES)}
        write_metrics(runs / study / "ensembles/all/external/T1", rows, about)
    found, path = compare_studies(runs, "a", "all", "b", on="T1")
    assert (found["n"], found["on"]) == (N - 2, "T1")
    assert found["refused"] == {"no code": 2}
    both = found["refused_as_wrong"]
    assert both is not None
    for key, how in (("first", (0.9, 0)), ("second", (0.6, 1))):
        right = np.delete(told(*how).argmax(axis=1) == TRUTH, [7, 8])
        assert both[key]["value"] == pytest.approx(right.sum() / N)  # type: ignore[literal-required]
        assert found["accuracy"][key]["value"] == pytest.approx(right.mean())  # type: ignore[literal-required]
    difference = found["accuracy"]["comparison"]["difference"] * (N - 2) / N
    assert both["difference"]["value"] == pytest.approx(difference)
    shown = paired_table(found)
    assert "accuracy, refused counted as wrong" in [row[0] for row in shown.rows]
    assert "2 scans (no code 2)" in str(shown.caption)
    assert path == runs / "a/ensembles/all/external/T1/comparison-b.json"


def test_the_table_shows_both_and_the_difference(found: dict[str, Any]) -> None:
    paired = paired_table(found)
    assert paired.columns[1:4] == ("a/all", "b/all", "difference")
    assert [row[0] for row in paired.rows] == [
        "accuracy",
        *(f"sensitivity for {name}" for name in CLASSES),
        "balanced accuracy",
        "macro F1",
        "macro AUC",
    ]
    test = found["accuracy"]["comparison"]
    assert paired.rows[0][3].startswith(f"{100 * test['difference']:+.2f} [")
    assert f"({test['only_first']} : {test['only_second']})" in paired.rows[0][4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scans", r"only a/all has s3, s5\. Train both on one split"),
        ("more scans", r"only b/all has s63\. Train both"),
        ("labels", r"they disagree on the label of s4 \(COVID-19, CAP\)"),
        ("patients", r"they disagree on the patient_id of s4"),
        ("classes", r"cannot be compared: classes"),
        ("cohort", r"cannot be compared: cohort three and four"),
        ("version", r"has schema_version 9, this program reads 2"),
        (
            "missing",
            r"There are no metrics\.json and patients\.csv in .* Run python aggregate\.py study=b ensemble=all",
        ),
        ("itself", r"compare=a is the ensemble itself"),
    ],
)
def test_ensembles_on_different_scans_are_refused(change: str, message: str, runs: Path) -> None:
    rows, other, about = table(told(0.6, 1)), "a" if change == "itself" else "b", {}
    if change == "scans":
        rows = rows.drop(index=["s3", "s5"])
    elif change == "more scans":
        rows = pd.concat([rows, rows.iloc[-1:].rename(index={"s62": "s63"})])
    elif change == "labels":
        rows.loc["s4", "label"] = "CAP"
    elif change == "patients":
        rows.loc["s4", "patient_id"] = "p999"
    elif change in ("classes", "cohort", "version"):
        about = {
            "classes": {"classes": ["COVID-19", "None", "CAP"]},
            "cohort": {"cohort": "four"},
            "version": {"schema_version": 9},
        }[change]
    write(runs, "b", rows, **about)
    if change == "missing":
        (runs / "b/ensembles/all/patients.csv").unlink()
    with pytest.raises(RunError, match=message):
        compare_studies(runs, "a", "all", other, on="validation")
    assert not list(runs.rglob("comparison-*"))
