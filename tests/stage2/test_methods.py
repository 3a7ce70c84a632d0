"""Other ways from slices to patients: rules by hand, learners on what only they can tell, sets traced by value."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

from cnr_iemn.constants import method_names
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.evaluation.method_comparison import compare_methods
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.stage2.group_features import group_features, percentages
from cnr_iemn.stage2.methods.base import FittedMethod, Method
from cnr_iemn.stage2.methods.descriptions import (
    few_features,
    infected_rule,
    least_healthy_three,
    mean_probabilities,
    shares_of_slices,
)
from cnr_iemn.stage2.methods.infected_first import InfectedFirst
from cnr_iemn.stage2.methods.registry import METHODS, stage2_methods
from cnr_iemn.stage2.methods.rules import FittedRule
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray, paper_sets
from cnr_iemn.stage2.scan_predictions import predict_sets
from tests.builders import make_predictions, make_scans, make_summaries

pytestmark = pytest.mark.slow

SCANS = make_scans(8, 6)
MODELS = ("resnext50", "densenet161")
PREDICTIONS = {model: make_predictions(model, SCANS, skill=0.5) for model in MODELS}
CLASSES = PREDICTIONS["resnext50"].metadata.classes
AXES = Axes(MODELS, CLASSES)
PLAIN = {name: method for name, method in METHODS.items() if method.applies_to(AXES)}
"""What can be compared where the runs keep no features and the networks have no attention."""


def scan_of(*answers: int, sure: float = 0.8, models: int = 2) -> ScanArray:
    """Slices that name these classes, alike for each model."""
    one = np.full((len(answers), 3), (1 - sure) / 2, dtype=np.float32)
    one[np.arange(len(answers)), answers] = sure
    return np.stack([one] * models)


def test_a_scan_is_its_slices_in_order_model_after_model() -> None:
    shuffled = {
        name: replace(each, table=each.table.sample(frac=1, random_state=1).reset_index(drop=True))
        for name, each in PREDICTIONS.items()
    }
    sets = paper_sets(shuffled)
    assert set(sets) == set(SCANS)
    for scan_id, (array,) in sets.items():
        assert array.shape == (2, SCANS[scan_id].n_slices, 3)
        rows = PREDICTIONS["densenet161"].table
        rows = rows[rows["scan_id"] == scan_id].sort_values("slice_index")
        np.testing.assert_array_equal(array[1], rows[[f"p_{name}" for name in CLASSES]].to_numpy())
    expected = group_features(PREDICTIONS)
    for scan_id, (array,) in sets.items():
        np.testing.assert_array_equal(percentages(array), expected.loc[scan_id].to_numpy())


def test_rules_by_hand() -> None:
    scan = scan_of(*[0] * 95, *[1] * 3, *[2] * 2)
    np.testing.assert_allclose(shares_of_slices(scan), [0.95, 0.03, 0.02])
    np.testing.assert_allclose(infected_rule(scan), [0, 0.6, 0.4])
    np.testing.assert_allclose(infected_rule(scan_of(*[0] * 98, 1, 2)), [1, 0, 0])
    surer = np.concatenate([scan, scan_of(2, sure=0.98), scan_of(1, 2, sure=0.9)], axis=1)
    sick = np.array([[0.01, 0.01, 0.98], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    np.testing.assert_allclose(least_healthy_three(surer), sick.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(few_features(scan)[[0, 6]], [0.95, 0.05])
    np.testing.assert_allclose(FittedRule(AXES, least_healthy_three).predict_proba([scan]).sum(axis=1), 1)


def test_mean_probabilities_of_groups() -> None:
    scan = scan_of(*[0] * 20, *[1] * 20)
    means = mean_probabilities(scan).reshape(2, 20, 3)
    np.testing.assert_allclose(means[:, 0], [[0.8, 0.1, 0.1]] * 2, rtol=1e-6)
    np.testing.assert_allclose(means[:, 19], [[0.1, 0.8, 0.1]] * 2, rtol=1e-6)
    assert np.isnan(mean_probabilities(scan_of(0, 1))).sum() == 2 * 18 * 3


def test_infected_first_asks_which_on_the_infected_slices_alone() -> None:
    rng = np.random.default_rng(0)

    def scan(disease: int) -> ScanArray:
        answers = np.zeros(60, dtype=int)
        if disease:
            answers[rng.choice(60, 6, replace=False)] = disease  # a tenth, anywhere: no group tells
        return scan_of(*answers)

    labels = np.repeat([0, 1, 2], [20, 20, 8])
    fitted = InfectedFirst().fit([scan(k) for k in labels], labels, AXES)
    truth = np.repeat([0, 1, 2], 10)
    found = fitted.predict_proba([scan(k) for k in truth])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1)[truth > 0] == truth[truth > 0]).mean() > 0.9


def test_two_classes_need_no_second_question() -> None:
    scans = [scan_of(*[k] * 30)[..., :2] for k in (0, 1) * 10]
    axes = Axes(MODELS, CLASSES[:2])
    found = InfectedFirst().fit(scans, np.array([0, 1] * 10), axes).predict_proba(scans[:2])
    assert found.shape == (2, 2)
    assert found.argmax(axis=1).tolist() == [0, 1]


def test_answers_are_averaged_over_a_scans_sets() -> None:
    sets = {"b": (scan_of(2),), "a": (scan_of(0), scan_of(1))}
    found = predict_sets(FittedRule(AXES, shares_of_slices), sets)
    assert predict_sets(FittedRule(AXES, shares_of_slices), {}).shape == (0, 3)
    np.testing.assert_allclose(found, [[0, 0, 1], [0.5, 0.5, 0]])


@pytest.fixture(scope="module")
def metrics() -> dict:
    found = assemble_results(
        PREDICTIONS, make_summaries(SCANS), cohort="three", options=EvidenceOptions(methods=True, method_repeats=2)
    )
    assert set(found.seconds) == {
        "permutation test",
        "calibration",
        "stability",
        "methods",
        "shortcut audit",
        "near-duplicates",
    }
    return found.metrics


def test_the_papers_method_is_the_papers(metrics: dict) -> None:
    assert list(metrics["methods"]) == list(PLAIN)
    again = metrics["methods"]["XGBoost on percentages"]
    assert again["confusion_matrix"] == metrics["confusion_matrix"]
    assert again["comparison"]["difference"] == 0
    assert again["operating_point"] == metrics["operating_point"]
    assert [name for name, each in metrics["methods"].items() if each["primary"]] == ["XGBoost on percentages"]
    table = evidence_tables(metrics)[-1]
    assert len(table.rows) == len(PLAIN)


def test_every_method_has_a_name_that_settings_know(metrics: dict) -> None:
    assert tuple(METHODS) == method_names()
    choice = metrics["method_choice"]
    best = max(PLAIN, key=lambda name: metrics["methods"][name]["cross_validation"])
    assert (choice["method"], choice["folds"], choice["repeats"]) == (best, 5, 2)
    assert best in str(evidence_tables(metrics)[-1].caption)


def test_the_primary_method_makes_the_predictions_and_is_the_reference_of_all_others() -> None:
    primary = "logistic regression on few features"
    options = EvidenceOptions(methods=True, method_repeats=1, primary_method=primary)
    found = assemble_results(
        PREDICTIONS,
        make_summaries(SCANS),
        cohort="three",
        options=options,
        methods=stage2_methods(rounds=5, max_depth=2),
    ).metrics
    rows = found["methods"]
    assert found["method"] == primary
    assert [name for name, each in rows.items() if each["primary"]] == [primary]
    assert rows[primary]["confusion_matrix"] == found["confusion_matrix"]
    assert rows["XGBoost on percentages"]["confusion_matrix"] != found["confusion_matrix"]
    assert rows[primary]["operating_point"] == found["operating_point"]
    assert found["contributions"] is None
    for each in rows.values():
        against = each["comparison"]
        assert against["difference"] == pytest.approx(rows[primary]["accuracy"] - each["accuracy"])
        assert each["cross_validation_sd"] is None
    p = sorted(each["comparison"]["p"] for name, each in rows.items() if name != primary)
    least = min(each["comparison"]["p_holm"] for each in rows.values())
    assert least == pytest.approx(min(1, p[0] * (len(PLAIN) - 1)))  # not corrected for itself
    table = evidence_tables(found)[-1]
    assert {row[0]: row[-1] for row in table.rows} == {
        name: "primary" if name == primary else "exploratory" for name in PLAIN
    }
    points = next(each for each in evidence_tables(found) if each.title.startswith("Decision threshold"))
    assert [row[0] for row in points.rows if row[-1] == "primary"] == [primary]
    assert f"The primary method, named before the run, is {primary}" in str(table.caption)
    assert "predict.py, export.py and patients.csv use the primary method" in str(table.caption)


def test_cross_validation_is_the_mean_over_cuts_by_patient() -> None:
    scans, sets = PREDICTIONS["resnext50"].scans, paper_sets(PREDICTIONS)
    name = "logistic regression on few features"
    found, _ = compare_methods(sets, scans, AXES, primary=name, repeats=3, seed=4, methods={name: METHODS[name]})
    training = scans[scans["split"] == "training"]
    truth, values = np.array([CLASSES.index(label) for label in training["label"]]), []
    for seed in (4, 5, 6):
        told = np.empty(len(truth), dtype=int)
        for rest, part in StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(
            training, training["label"], training["patient_id"]
        ):
            learnt = METHODS[name].fit([sets[k][0] for k in training.index[rest]], truth[rest], AXES)
            told[part] = learnt.predict_proba([sets[k][0] for k in training.index[part]]).argmax(axis=1)
        values.append(balanced_accuracy_score(truth, told))
    assert found[name]["cross_validation"] == pytest.approx(np.mean(values))
    assert found[name]["cross_validation_sd"] == pytest.approx(np.std(values, ddof=1))


def test_cross_validation_each_scan_is_answered_once_by_what_has_not_learnt_from_it() -> None:
    scans, sets = PREDICTIONS["resnext50"].scans, paper_sets(PREDICTIONS)
    name_of = {array.tobytes(): scan_id for scan_id, (array,) in sets.items()}
    answered: list[str] = []

    class Watched(FittedRule):
        def __init__(self, known: set[str]) -> None:
            super().__init__(AXES, shares_of_slices)
            object.__setattr__(self, "known", known)

        def predict_proba(self, scans: Sequence[ScanArray]) -> np.ndarray:
            names = [name_of[array.tobytes()] for array in scans]
            assert not self.known & set(names)  # type: ignore[attr-defined]
            answered.extend(names)
            return super().predict_proba(scans)

    class Watching(Method):
        def fit(self, scans: Sequence[ScanArray], labels: np.ndarray, axes: Axes, *, seed: int = 0) -> FittedMethod:
            assert [CLASSES[k] for k in labels] == [SCANS[name_of[array.tobytes()]].label for array in scans]
            return Watched({name_of[array.tobytes()] for array in scans})

        def load(self, path: Path, axes: Axes, *, again: str) -> FittedMethod:
            raise NotImplementedError

    compare_methods(sets, scans, AXES, primary="watched", repeats=2, methods={"watched": Watching()})
    training = [name for name, scan in SCANS.items() if scan.split == "training"]
    assert sorted(answered) == sorted([*SCANS, *training])  # validation scans once, training scans once a cut


def test_what_is_cross_validation_does_not_know_the_validation_scans(metrics: dict) -> None:
    scans = PREDICTIONS["resnext50"].scans
    sets = paper_sets(PREDICTIONS)
    spoilt = {k: tuple(a[..., ::-1] for a in v) if SCANS[k].split == "validation" else v for k, v in sets.items()}
    chosen = {name: METHODS[name] for name in ("three least healthy slices", "logistic regression on few features")}
    first = next(iter(chosen))
    found, _ = compare_methods(spoilt, scans, AXES, primary=first, repeats=2, label="COVID-19", methods=chosen)
    for name, each in found.items():
        assert each["cross_validation"] == metrics["methods"][name]["cross_validation"]
        assert each["operating_point"]["threshold"] == metrics["methods"][name]["operating_point"]["threshold"]
        assert each["accuracy"] != metrics["methods"][name]["accuracy"]
