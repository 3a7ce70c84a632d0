import json

import numpy as np
import pytest
from sklearn import metrics as sk

from cnr_iemn.constants import PAPER_ENSEMBLE_ACCURACY, PAPER_SENSITIVITY, SPGC_CLASSES
from cnr_iemn.errors import RunError
from cnr_iemn.statistics.metrics import evaluate, evaluate_slices, most_probable
from tests.builders import FakeScan, make_predictions, make_scans


@pytest.mark.parametrize("classes", [SPGC_CLASSES, ("b", "a"), tuple("edcba")])
def test_figures_equal_scikit_learn_on_random_input(classes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(len(classes))
    labels, predicted = rng.choice(classes, 200), rng.choice(classes, 200)
    found = evaluate(labels, predicted, classes)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert found["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=classes).tolist()
    recalls = sk.recall_score(labels, predicted, labels=classes, average=None)
    assert list(found["sensitivity"]) == list(classes)
    assert list(found["sensitivity"].values()) == pytest.approx(recalls)
    assert found["n_patients"] == 200
    json.dumps(found, allow_nan=False)


def test_the_paper_s_counts_give_the_paper_s_figures() -> None:
    counts = {"Normal": (23, 24), "COVID-19": (53, 55), "CAP": (10, 19)}
    labels = [name for name, (_, total) in counts.items() for _ in range(total)]
    predicted = [
        name if i < right else "COVID-19" if name == "CAP" else "CAP"
        for name, (right, total) in counts.items()
        for i in range(total)
    ]
    found = evaluate(labels, predicted, SPGC_CLASSES)
    assert found["n_patients"] == 98
    assert found["accuracy"] == 86 / 98
    assert 100 * found["accuracy"] == pytest.approx(PAPER_ENSEMBLE_ACCURACY, abs=0.006)  # the paper cuts 87.755
    assert {name: round(100 * value, 2) for name, value in found["sensitivity"].items()} == PAPER_SENSITIVITY
    assert found["balanced_accuracy"] == pytest.approx((23 / 24 + 53 / 55 + 10 / 19) / 3)
    assert found["confusion_matrix"] == [[23, 0, 1], [0, 53, 2], [0, 9, 10]]


def test_a_class_without_scans_has_no_sensitivity_and_does_not_count() -> None:
    found = evaluate(["a", "a", "b"], ["a", "c", "b"], "abc")
    assert found["sensitivity"] == {"a": 0.5, "b": 1.0, "c": None}
    assert found["balanced_accuracy"] == 0.75


def test_missing_validation_scans_and_unknown_names_are_refused() -> None:
    with pytest.raises(RunError, match=r"no validation scan.*data.split.validation=0"):
        evaluate([], [], SPGC_CLASSES)
    with pytest.raises(RunError, match="'flu' are none of the classes Normal, COVID-19, CAP"):
        evaluate(["flu"], ["CAP"], SPGC_CLASSES)


def test_most_probable_takes_the_first_of_equals() -> None:
    assert most_probable(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), SPGC_CLASSES) == ["COVID-19", "Normal"]


def test_evaluate_slices_counts_labelled_validation_slices_only() -> None:
    scans = make_scans(2, 2) | {"more": FakeScan("CAP", "validation", slice_labelled=False)}
    predictions = make_predictions(scans=scans, skill=0.7)
    table = predictions.table[predictions.table["scan_id"].map(lambda name: scans[name].split == "validation")]
    table = table[table["scan_id"] != "more"]
    answers = table[["p_Normal", "p_COVID-19", "p_CAP"]].idxmax(axis=1).str.removeprefix("p_")
    found = evaluate_slices(predictions.table, predictions.probabilities, SPGC_CLASSES)
    assert found["n_slices"] == len(table) == 3 * (42 + 43)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(table["slice_label"], answers))
    recalls = sk.recall_score(table["slice_label"], answers, labels=SPGC_CLASSES, average=None)
    assert list(found["sensitivity"].values()) == pytest.approx(recalls)


def test_evaluate_slices_without_labelled_validation_slices_returns_no_accuracy() -> None:
    predictions = make_predictions(scans=make_scans(2, 0))
    found = evaluate_slices(predictions.table, predictions.probabilities, SPGC_CLASSES)
    assert found["n_slices"] == 0
    assert found["accuracy"] is found["balanced_accuracy"] is None
