"""External validation: its figures against scikit-learn, and the sets that it refuses to score."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from cnr_iemn.constants import PAPER_BACKBONES, PHANTOM_NOTICE, PHANTOM_SCANS_NOTICE, SPGC_CLASSES
from cnr_iemn.errors import ConfigurationError, RunError
from cnr_iemn.evaluation.clinical.clinical_use import clinical_use
from cnr_iemn.evaluation.external_metrics import read_external_accuracies
from cnr_iemn.evaluation.external_validation import score_external
from cnr_iemn.report.checklists.result_topics import external
from cnr_iemn.report.tables.external import accuracy_table, answer_text, external_summary, external_tables
from cnr_iemn.stage2.new_scans import write_new_scans
from tests.builders import FakeScan
from tests.new_scans import FROZEN, make_new_scans, write_study

T1 = {f"T1_{k:03d}": FakeScan(SPGC_CLASSES[k % 2], n_slices=22) for k in range(10)}  # no CAP, as in the challenge's
T2 = {f"T2_{k:03d}": FakeScan(SPGC_CLASSES[k % 3], n_slices=22) for k in range(9)}
REFUSED = {"T2_009": "T2_009: slices are missing", "T2_010": "T2_010: no air"}
CODES = {"T2_009": "missing-slices", "T2_010": "not-hu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with an ensemble, predictions of two external sets, two refused scans, and the labels."""
    folder = tmp_path_factory.mktemp("external")
    booster, _ = write_study(folder, learnt_from={"P001": "grey of P001"})
    write_new_scans(folder / "T1.parquet", make_new_scans(T1, skill=0.55, method_sha256=booster))
    write_new_scans(
        folder / "T2.parquet", make_new_scans(T2, skill=0.4, method_sha256=booster, refused=REFUSED, codes=CODES)
    )
    for name, scans in (("T1", T1), ("T2", {**T2, "T2_009": FakeScan("CAP"), "T2_010": FakeScan("CAP")})):
        lines = [f"{scan_id.replace('_', '-')},{scan.label.lower()}" for scan_id, scan in scans.items()]
        (folder / f"{name}-labels.csv").write_text("\ufeffStudy,Label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def score(runs: Path, *names: str) -> dict[str, dict[str, Any]]:
    predictions, labels = [runs / f"{name}.parquet" for name in names], [runs / f"{name}-labels.csv" for name in names]
    return score_external(runs, "study", "two", predictions, labels)


@pytest.fixture(scope="module")
def sets(runs: Path) -> dict[str, dict[str, Any]]:
    return score(runs, "T1", "T2")


def answered(runs: Path, name: str) -> tuple[pd.DataFrame, Any, Any]:
    """The answered rows of patients.csv, their true class indices and the booster's probabilities."""
    table = pd.read_csv(runs / "study/ensembles/two/external" / name / "patients.csv")
    table = table[table["refused"].isna()]
    truth = table["label"].map(list(SPGC_CLASSES).index).to_numpy()
    return table, truth, table[[f"p_{label}" for label in SPGC_CLASSES]].to_numpy()


@pytest.mark.parametrize("name", ["T1", "T2", "together"])
def test_figures_equal_those_of_scikit_learn(name: str, sets: dict[str, dict[str, Any]], runs: Path) -> None:
    metrics = sets[name]
    table, truth, told = answered(runs, name)
    predicted = told.argmax(axis=1)
    assert 0.3 < metrics["accuracy"] < 1  # both right and wrong ones
    assert metrics["accuracy"] == pytest.approx((predicted == truth).mean())
    assert (metrics["n_predicted"], metrics["n_patients"]) == (len(table), len(table))
    assert metrics["confusion_matrix"] == confusion_matrix(truth, predicted, labels=[0, 1, 2]).tolist()
    occurring = np.unique(truth)
    bootstrap = metrics["intervals"]["patient_bootstrap"]
    recalls = [(predicted[truth == k] == k).mean() for k in occurring]
    assert metrics["balanced_accuracy"] == bootstrap["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    if name != "T1":
        assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    f1 = f1_score(truth, predicted, labels=occurring, average="macro")
    assert bootstrap["macro_f1"]["value"] == pytest.approx(f1)
    auc = np.mean([roc_auc_score(truth == k, told[:, k]) for k in occurring])
    assert bootstrap["macro_auc"]["value"] == pytest.approx(auc)
    for k, label in enumerate(SPGC_CLASSES):
        n, right = (truth == k).sum(), ((truth == k) & (predicted == k)).sum()
        interval = metrics["intervals"]["wilson"]["sensitivity"][label]
        if n:
            assert metrics["sensitivity"][label] == right / n
            expected = proportion_confint(right, n, method="wilson")
            assert (interval["low"], interval["high"]) == pytest.approx(expected)
        else:
            assert metrics["sensitivity"][label] is interval["low"] is None


def test_calibration_and_undecided_follow_the_study(sets: dict[str, dict[str, Any]], runs: Path) -> None:
    found = sets["together"]["calibration"]
    table, truth, told = answered(runs, "together")
    sharpened = told ** (1 / FROZEN.temperature)
    calibrated = sharpened / sharpened.sum(axis=1, keepdims=True)
    assert (found["temperature"], found["learnt_on"]) == (FROZEN.temperature, FROZEN.n)
    assert found["before"]["log_loss"] == pytest.approx(
        log_loss(truth, told / told.sum(axis=1, keepdims=True)), abs=1e-6
    )
    assert found["after"]["log_loss"] == pytest.approx(log_loss(truth, calibrated))
    assert found["after"]["brier"] == pytest.approx(((calibrated - np.eye(3)[truth]) ** 2).sum(axis=1).mean())
    assert table[[f"calibrated_{name}" for name in SPGC_CLASSES]].to_numpy() == pytest.approx(calibrated)
    decided = calibrated.max(axis=1) >= FROZEN.threshold
    assert 0 < decided.sum() < len(decided)
    assert (table["undecided"].astype(bool).to_numpy() == ~decided).all()
    right = calibrated.argmax(axis=1) == truth
    undecided = found["undecided"]
    assert (undecided["threshold"], undecided["wanted_share"]) == (FROZEN.threshold, FROZEN.answer_share)
    assert undecided["share_answered"] == pytest.approx(decided.mean())
    assert undecided["accuracy_among_answered"] == pytest.approx(right[decided].mean())


def test_refused_scans_are_counted_and_reported(sets: dict[str, dict[str, Any]], runs: Path) -> None:
    metrics = sets["T2"]
    assert (metrics["n_labelled"], metrics["n_predicted"]) == (11, 9)
    assert metrics["missing"] == {
        name: {"label": "CAP", "refused": why, "code": CODES[name]} for name, why in REFUSED.items()
    }
    assert metrics["refused"] == sets["together"]["refused"] == {"missing-slices": 1, "not-hu": 1}
    assert sets["T1"]["refused"] == {}
    right = sum(row[k] for k, row in enumerate(metrics["confusion_matrix"]))
    missing = metrics["missing_as_wrong"]
    assert missing["accuracy"]["value"] == pytest.approx(right / 11)
    assert missing["sensitivity"]["CAP"]["value"] == pytest.approx(metrics["confusion_matrix"][2][2] / 5)
    low, high = proportion_confint(right, 11, method="wilson")
    assert (missing["accuracy"]["low"], missing["accuracy"]["high"]) == pytest.approx((low, high))
    patients = pd.read_csv(runs / "study/ensembles/two/external/T2/patients.csv").set_index("scan_id")
    lost = patients.loc[list(REFUSED)]
    assert lost["refused"].tolist() == list(REFUSED.values())
    assert lost["code"].tolist() == list(CODES.values())
    assert patients.drop(index=list(REFUSED))["code"].isna().all()
    assert lost[["predicted", "p_CAP", "calibrated_CAP", "undecided"]].isna().all(axis=None)
    assert not lost["correct"].any()
    assert sets["together"]["n_labelled"] == 21


def test_beside_every_external_figure_stands_what_it_leaves_out(sets: dict[str, dict[str, Any]], runs: Path) -> None:
    """In each table, in the report's, in the checklists' answer and, with metrics.json alone, in what is read again."""
    counts = "T2: 11 scans given, 2 refused (missing-slices 1, not-hu 1), 9 answered and rated"
    use = decided_use()
    tables = external_tables({name: {**metrics, "clinical_use": use} for name, metrics in sets.items()})  # type: ignore[typeddict-item]
    assert len(tables) == 4 + 2 * len(sets) + 1
    for table in tables:
        assert "T1: 10 scans given, 0 refused, 10 answered and rated." in str(table.caption), table.title
        assert f"{counts}." in str(table.caption), table.title
    folder = runs / "study/ensembles/two"
    again = read_external_accuracies(folder, sets["T2"]["method_sha256"])
    assert {scores["set"] for scores in again} == {"T1", "T2", "together"}
    row = next(row for row in external_summary(again).rows if row[0] == "T2")
    right = sum(line[k] for k, line in enumerate(sets["T2"]["confusion_matrix"]))
    assert row[1] == counts.removeprefix("T2: ")
    assert row[2].startswith(f"{100 * right / 9:.2f} [")
    assert row[3].startswith(f"{100 * right / 11:.2f} [")
    said = external(tuple(again))
    assert f"{counts}, accuracy {100 * right / 9:.2f}% [" in said.sentence
    assert f"with the refused counted as wrong {100 * right / 11:.2f}% [" in said.sentence
    for source in said.file.split("; "):
        name, _, keys = source.partition(": ")
        assert set(keys.split(", ")) <= set(json.loads((folder / name).read_text()))


def decided_use() -> Any:
    """The decision on a class, measured on scans that do not matter here."""
    probabilities = np.tile([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], (5, 1))
    estimate = {"value": 0.9, "low": 0.7, "high": 1.0}
    point: Any = {
        "label": "COVID-19", "threshold": 0.4, "target_sensitivity": 0.9, "learnt_on": 30, "optimistic": False,
        "training_sensitivity": 0.9, "training_specificity": 0.8, "sensitivity": estimate, "specificity": estimate,
    }  # fmt: skip
    return clinical_use(
        probabilities, np.tile([1, 0], 5), SPGC_CLASSES, point, calibrated=probabilities, prevalences=()
    )


def test_refusals_without_a_code_are_counted_as_such(tmp_path: Path) -> None:
    """Of predictions that an earlier version wrote."""
    booster, _ = write_study(tmp_path)
    new = make_new_scans(T1, method_sha256=booster, refused={"T1_010": "T1_010: damaged"})
    write_new_scans(tmp_path / "T1.parquet", new)
    lines = [f"{scan_id},{scan.label}" for scan_id, scan in T1.items()]
    (tmp_path / "T1-labels.csv").write_text("\n".join(["Study,Label", *lines, "T1_010,CAP"]), encoding="utf-8")
    metrics = score(tmp_path, "T1")["T1"]
    assert metrics["refused"] == {"no code": 1}
    assert "1 refused (no code 1)" in answer_text(metrics)  # type: ignore[arg-type]


def test_files_hold_what_is_returned_and_one_set_has_no_other(sets: dict[str, dict[str, Any]], runs: Path) -> None:
    folder = runs / "study/ensembles/two/external"
    for name, metrics in sets.items():
        assert json.loads((folder / name / "metrics.json").read_text()) == metrics
    assert list(score(runs, "T1")) == ["T1"]
    assert sets["T1"]["schema_version"] == 2
    assert "notice" not in sets["T1"]


def test_tables_have_a_row_for_each_set_and_name_missing_results(sets: dict[str, dict[str, Any]]) -> None:
    accuracy, sensitivity, calibration, undecided, *clinical = external_tables(sets)
    assert clinical == []  # this study has no operating point
    assert [row[:2] for row in accuracy.rows] == [("T1", "10 of 10"), ("T2", "9 of 11"), ("together", "19 of 21")]
    caps = next(row for row in sensitivity.rows if row[0] == "T2, CAP")
    assert caps[4] == "2"
    assert next(row for row in sensitivity.rows if row[0] == "T1, CAP")[5:] == ("–", "–")
    assert [len(table.rows) for table in (sensitivity, calibration, undecided)] == [9, 6, 9]
    assert "Nothing was fitted" in str(accuracy.caption)
    assert "The paper's own" not in str(accuracy.caption)


@pytest.mark.parametrize("change", [{}, {"phantom_study": True}, {"n_phantom_scans": 1}, {"cohort": "own"}])
def test_the_paper_s_figures_are_shown_for_the_real_cohort_only(
    change: dict[str, Any], sets: dict[str, dict[str, Any]]
) -> None:
    real = {**sets["together"], "cohort": "covid_ct_md", "models": list(PAPER_BACKBONES)}
    caption = str(accuracy_table([{**real, **change}]).caption)
    assert ("SPGC tests 1 to 3: 73 of 90 [71.8, 87.9], CAP 9 of 20 [25.8, 65.8]" in caption) == (not change)


def change_study(runs: Path, change: str) -> Callable[[], None]:
    """Make a copy of T1's predictions of something else; return what is to be called for it."""
    booster, folder = write_study(runs, learnt_from={"P001": "grey of T1_004"} if change == "training scan" else {})
    new = make_new_scans(T1, method_sha256="other" if change == "booster" else booster)
    if change == "network":
        networks = tuple(replace(each, checkpoint_sha256="f" * 64) for each in new.metadata.networks)
        new = replace(new, metadata=replace(new.metadata, networks=networks))
    write_new_scans(runs / "T1.parquet", new)
    lines = [f"{scan_id},{scan.label}" for scan_id, scan in T1.items()]
    (runs / "T1-labels.csv").write_text("Study,Label\n" + "\n".join(lines), encoding="utf-8")
    names = ["T1", "T1b"] if change == "twice" else ["T1"]
    write_new_scans(runs / "T1b.parquet", new)

    def scored() -> None:
        try:
            score_external(runs, "study", "two", [runs / f"{name}.parquet" for name in names], [runs / "T1-labels.csv"])
        finally:
            assert not (folder / "external").exists()

    return scored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("booster", r"is not from this ensemble: the SHA-256 of the stage-2 method differs.* study=study ensemble=two"),
        ("network", r"is not from this ensemble: the SHA-256 of the networks differs"),
        ("training scan", r"The study was trained on T1_004 \(training scan P001\): the pixels are the same"),
        ("twice", r"Scan T1_000 is in .*T1\.parquet and in .*T1b\.parquet"),
    ],
)
def test_sets_that_cannot_be_scored_are_refused(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        change_study(tmp_path, change)()


def test_a_set_without_predictions_and_an_ensemble_without_calibration(tmp_path: Path) -> None:
    booster, _ = write_study(tmp_path, calibration=None)
    new = make_new_scans(T1, method_sha256=booster, refused={"T3_001": "T3_001: damaged"}, phantom_scans=True)
    write_new_scans(tmp_path / "all.parquet", new)
    lines = [f"{scan_id},{scan.label}" for scan_id, scan in T1.items()]
    (tmp_path / "T1.csv").write_text("Study,Label\n" + "\n".join(lines), encoding="utf-8")
    (tmp_path / "T3.csv").write_text("Study,Label\nT3-001,cap\n", encoding="utf-8")
    both = [tmp_path / "T1.csv", tmp_path / "T3.csv"]
    with pytest.raises(RunError, match="any of the 1 labelled scans of T3"):
        score_external(tmp_path, "study", "two", [tmp_path / "all.parquet"], both)
    text = both[0].read_text() + "\nT3_001,cap"
    both[0].write_text(text, encoding="utf-8")
    (metrics,) = score_external(tmp_path, "study", "two", [tmp_path / "all.parquet"], both[:1]).values()
    assert metrics["calibration"] is None
    assert metrics["notice"] == PHANTOM_SCANS_NOTICE
    tables = external_tables({"T1": metrics})
    assert len(tables) == 2
    assert all(table.notice == PHANTOM_SCANS_NOTICE for table in tables)
    assert "10 of the 10 scans are phantoms, the study is of real scans" in str(tables[0].caption)
    read = read_external_accuracies(tmp_path / "study/ensembles/two", booster)
    for text in (external_summary(read).rows[0][1], external(tuple(read)).sentence):
        assert "; 10 of the 10 scans are phantoms, the study is of real scans: these metrics have no meaning" in text


def test_real_scans_in_a_phantom_study_are_named(tmp_path: Path) -> None:
    booster, _ = write_study(tmp_path, phantom=True)
    write_new_scans(tmp_path / "T1.parquet", make_new_scans(T1, method_sha256=booster, phantom=True))
    lines = [f"{scan_id},{scan.label}" for scan_id, scan in T1.items()]
    (tmp_path / "T1-labels.csv").write_text("Study,Label\n" + "\n".join(lines), encoding="utf-8")
    metrics = score(tmp_path, "T1")["T1"]
    assert metrics["notice"] == PHANTOM_NOTICE
    assert "0 of the 10 scans are phantoms, the study is of phantoms" in str(accuracy_table([metrics]).caption)


def test_a_decision_is_measured_at_the_threshold_of_the_study(tmp_path: Path) -> None:
    """Ratios, counts and curve against their definitions; the threshold is the study's, nothing is fitted."""
    booster, folder = write_study(tmp_path)
    point: dict[str, Any] = {
        "label": "COVID-19", "threshold": 0.4, "target_sensitivity": 0.9, "learnt_on": 30, "optimistic": False,
        "training_sensitivity": 0.9, "training_specificity": 0.8,
        "sensitivity": {"value": 0.9, "low": 0.7, "high": 1.0},
        "specificity": {"value": 0.8, "low": 0.6, "high": 0.9},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({"schema_version": 2, "operating_point": point}))
    write_study(tmp_path)  # lists metrics.json
    write_new_scans(tmp_path / "T1.parquet", make_new_scans(T1, skill=0.55, method_sha256=booster))
    (tmp_path / "T1.csv").write_text(
        "Study,Label\n" + "".join(f"{name},{scan.label}\n" for name, scan in T1.items()), encoding="utf-8"
    )
    arguments = tmp_path, "study", "two", [tmp_path / "T1.parquet"], [tmp_path / "T1.csv"]
    (metrics,) = score_external(*arguments, prevalences=(0.05,)).values()
    use = metrics["clinical_use"]
    assert use is not None
    table = pd.read_csv(folder / "external" / "T1" / "patients.csv")
    positive, decision = table["label"] == "COVID-19", table["p_COVID-19"] >= 0.4
    sensitivity, false_positives = decision[positive].mean(), decision[~positive].mean()
    assert use["threshold"] == 0.4
    assert use["counts"]["true_positives"] == (positive & decision).sum()
    assert 0 < sensitivity < 1 or false_positives > 0
    if false_positives:
        assert use["positive_ratio"]["value"] == pytest.approx(sensitivity / false_positives)
    assert use["negative_ratio"]["value"] == pytest.approx((1 - sensitivity) / (1 - false_positives))
    assert [row["prevalence"] for row in use["expected"]] == [positive.mean(), 0.05]
    curve = use["decision_curve"]
    k = curve["thresholds"].index(0.3)
    act = table["calibrated_COVID-19"] >= 0.3
    benefit = (positive & act).mean() - (~positive & act).mean() * 0.3 / 0.7
    assert curve["net_benefit"][k] == pytest.approx(benefit)
    assert json.loads((folder / "external/T1/metrics.json").read_text())["clinical_use"] == use
    *_, decided, expected, net = external_tables({"T1": metrics})
    assert decided.title == "Decision for COVID-19 at a probability of 0.400, T1, scans"
    assert [row[0] for row in expected.rows] == ["50.00%, as here", "5.00%"]
    assert ("T1", "0.3") in [row[:2] for row in net.rows]
    assert f"{1000 * benefit:.0f} [" in next(row[2] for row in net.rows if row[1] == "0.3")


def test_without_an_operating_point_no_decision_is_claimed(runs: Path, sets: dict[str, dict[str, Any]]) -> None:
    assert all(metrics["clinical_use"] is None for metrics in sets.values())
    predictions, labels = [runs / "T1.parquet"], [runs / "T1-labels.csv"]
    with pytest.raises(ConfigurationError, match="this study has no such class"):
        score_external(runs, "study", "two", predictions, labels, prevalences=(0.05,))
