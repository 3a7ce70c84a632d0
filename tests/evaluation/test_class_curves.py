"""ROC and precision-recall curves, by their definition and by scikit-learn, and the operating points on them."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import auc, average_precision_score, recall_score, roc_auc_score

from cnr_iemn.statistics.confidence_intervals import resample_patients
from cnr_iemn.statistics.curve_bands import precision_recall_band, roc_band
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


PATIENTS = [f"p{k}" for k in range(90)]


def test_bands_hold_their_curve_and_depend_on_the_seed_alone(scans: tuple[list[str], np.ndarray]) -> None:
    with_bands = class_curves(*scans, CLASSES, PATIENTS, resamples=200)
    for curve, again in zip(with_bands, class_curves(*scans, CLASSES, PATIENTS, resamples=200), strict=True):
        band, other = curve.roc_band, curve.precision_recall_band
        assert band is not None
        assert other is not None
        on_curve = np.interp(band.x, curve.false_positive_rate, curve.true_positive_rate)
        assert (band.low <= on_curve + 1e-9).all()
        assert (on_curve <= band.high + 1e-9).all()
        assert (np.diff(band.high) >= -1e-9).all()  # an upper bound further right holds further left
        assert band.low.min() >= 0
        assert band.high.max() <= 1
        assert (other.low < other.high).all()
        assert other.low[-1] == pytest.approx(curve.prevalence)  # all scans called
        assert again.roc_band is not None
        assert (again.roc_band.low == band.low).all()


def test_no_band_without_enough_patients(scans: tuple[list[str], np.ndarray]) -> None:
    labels, probabilities = scans
    one_patient_each = [f"of {label}" for label in labels]
    assert all(curve.roc_band is None for curve in class_curves(labels, probabilities, CLASSES, one_patient_each))
    assert all(curve.roc_band is None for curve in class_curves(labels, probabilities, CLASSES))


@pytest.mark.parametrize(("n_positive", "n_negative", "distance"), [(24, 74, 2.0), (55, 43, 2.5), (19, 79, 1.0)])
def test_bands_cover_the_true_curve_pointwise(n_positive: int, n_negative: int, distance: float) -> None:
    """Binormal scores at the paper's class counts; 100 cohorts, at least 90% at each point (nominal 95%)."""
    rng = np.random.default_rng(0)
    positive = np.arange(n_positive + n_negative) < n_positive
    share, n_cohorts = positive.mean(), 100
    false_rates, recalls = np.array([0.03, 0.1, 0.3, 0.6, 0.9]), np.array([0.1, 0.4, 0.7, 0.9, 0.97])
    sensitivity = norm.cdf(distance + norm.ppf(false_rates))
    false_rate = norm.sf(norm.isf(recalls) + distance)
    precision = share * recalls / (share * recalls + (1 - share) * false_rate)
    owners = [str(k) for k in range(len(positive))]
    covered = np.zeros((2, 5))
    for _ in range(n_cohorts):
        scores = rng.normal(distance * positive, 1)
        weights = resample_patients(positive.astype(np.int64), owners, resamples=100, rng=rng)
        for k, (band, x, true) in enumerate(
            (
                (roc_band(positive, scores, weights), false_rates, sensitivity),
                (precision_recall_band(positive, scores, weights), recalls, precision),
            )
        ):
            places = np.searchsorted(band.x, x - 1e-9)
            covered[k] += (band.low[places] <= true + 1e-9) & (true <= band.high[places] + 1e-9)
    assert (covered / n_cohorts >= 0.9).all(), covered / n_cohorts
