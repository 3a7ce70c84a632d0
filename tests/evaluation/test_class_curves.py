"""ROC and precision-recall curves, by their definition and by scikit-learn, and the operating points on them."""

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, recall_score, roc_auc_score

from cnr_iemn.statistics.curves import ClassCurves, binary_rates, class_curves

CLASSES = ("Normal", "COVID-19", "CAP")


@pytest.fixture(scope="module")
def scans() -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=90)
    probabilities = rng.dirichlet(np.ones(3), size=90) + 0.6 * np.eye(3)[truth]
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 1)  # with ties
    return [CLASSES[k] for k in truth], probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def curves(scans: tuple[list[str], np.ndarray]) -> tuple[ClassCurves, ...]:
    return class_curves(*scans, CLASSES)


def test_every_point_is_a_threshold(scans: tuple[list[str], np.ndarray], curves: tuple[ClassCurves, ...]) -> None:
    labels, probabilities = np.array(scans[0]), scans[1]
    for k, curve in enumerate(curves):
        positive, scores = labels == CLASSES[k], probabilities[:, k]
        roc, recall = {(0.0, 0.0)}, {(0.0, 1.0)}
        for threshold in np.unique(scores):
            called = scores >= threshold
            roc.add((called[~positive].mean(), called[positive].mean()))
            recall.add((called[positive].mean(), positive[called].mean()))
        assert set(zip(curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist(), strict=True)) == roc
        assert set(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)) == recall


def test_the_areas_are_those_of_the_drawn_curves_and_of_scikit_learn(
    scans: tuple[list[str], np.ndarray], curves: tuple[ClassCurves, ...]
) -> None:
    labels, probabilities = np.array(scans[0]), scans[1]
    assert [curve.label for curve in curves] == list(CLASSES)
    for k, curve in enumerate(curves):
        positive, scores = labels == CLASSES[k], probabilities[:, k]
        assert curve.auc == pytest.approx(auc(curve.false_positive_rate, curve.true_positive_rate))
        assert curve.auc == pytest.approx(roc_auc_score(positive, scores))
        steps = -np.sum(np.diff(curve.recall) * curve.precision[:-1])
        assert curve.average_precision == pytest.approx(steps)
        assert curve.average_precision == pytest.approx(average_precision_score(positive, scores))
        assert curve.prevalence == pytest.approx(positive.mean())


def test_the_operating_point_is_the_most_probable_class(
    scans: tuple[list[str], np.ndarray], curves: tuple[ClassCurves, ...]
) -> None:
    labels, probabilities = np.array(scans[0]), scans[1]
    predicted = np.array(CLASSES)[probabilities.argmax(axis=1)]
    recalls = recall_score(labels, predicted, labels=list(CLASSES), average=None)
    assert [curve.rates.sensitivity["value"] for curve in curves] == pytest.approx(recalls.tolist())
    for curve in curves:
        specificity = recall_score(labels != curve.label, predicted != curve.label)
        assert curve.rates.specificity["value"] == pytest.approx(specificity)


def test_rates_count_by_hand() -> None:
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    called = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0], dtype=bool)
    rates = binary_rates(positive, called)
    values = [rate["value"] for rate in (rates.sensitivity, rates.specificity, rates.ppv, rates.npv)]
    assert values == pytest.approx([3 / 4, 4 / 5, 3 / 4, 4 / 5])
    assert binary_rates(positive, np.zeros(9, bool)).ppv["value"] is None


def test_a_class_without_scans_or_alone_has_no_curve() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2]])
    assert [curve.label for curve in class_curves(["Normal", "COVID-19"], probabilities, CLASSES)] == [
        "Normal",
        "COVID-19",
    ]
    assert class_curves(["CAP", "CAP"], probabilities, CLASSES) == ()
