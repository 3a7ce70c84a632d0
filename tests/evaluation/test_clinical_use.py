"""Net benefit, likelihood ratios, counts at a prevalence and sample size, against closed forms and statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.clinical.clinical_use import clinical_use, expected_rates
from cnr_iemn.evaluation.operating_point import OperatingPoint
from cnr_iemn.report.tables.clinical import ratio_text
from cnr_iemn.statistics.likelihood_ratios import DecisionCounts, likelihood_ratios, probability_after, ratio_of
from cnr_iemn.statistics.net_benefit import decision_curve
from cnr_iemn.statistics.sample_size import half_width, scans_for

RATE = {"value": 0.9, "low": 0.8, "high": 0.95}
POINT: OperatingPoint = {
    "label": "COVID-19", "threshold": 0.4, "target_sensitivity": 0.9, "learnt_on": 60, "optimistic": False,
    "training_sensitivity": 0.9, "training_specificity": 0.8, "sensitivity": RATE, "specificity": RATE,
}  # fmt: skip


def test_net_benefit_counts_by_hand() -> None:
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    probabilities = np.array([0.9, 0.8, 0.6, 0.2, 0.7, 0.5, 0.3, 0.2, 0.1, 0.1])
    curve = decision_curve(positive, probabilities, (0.25, 0.5, 0.75))
    assert curve["net_benefit"] == pytest.approx([3 / 10 - 3 / 10 / 3, 3 / 10 - 2 / 10, 2 / 10])
    assert curve["act_on_all"] == pytest.approx([0.4 - 0.6 / 3, 0.4 - 0.6, 0.4 - 0.6 * 3])
    assert curve["prevalence"] == 0.4


def test_to_act_on_all_is_a_model_that_is_always_sure() -> None:
    """Net benefit of a probability of 1 for each scan is that of acting on all; of 0, that of acting on none."""
    positive = np.arange(30) % 3 == 0
    sure, never = (decision_curve(positive, np.full(30, value)) for value in (1.0, 0.0))
    assert sure["net_benefit"] == pytest.approx(sure["act_on_all"])
    assert never["net_benefit"] == [0.0] * 99


@pytest.mark.parametrize(("found", "called"), [(40, 7), (55, 1), (20, 30), (3, 2)])
def test_ratio_interval_agrees_with_statsmodels(found: int, called: int) -> None:
    low, high = confint_proportions_2indep(found, 55, called, 43, method="score", compare="ratio", correction=False)
    ratio = ratio_of(found, 55, called, 43)
    assert ratio["value"] == pytest.approx(found / 55 / (called / 43))
    assert (ratio["low"], ratio["high"]) == pytest.approx((low, high), rel=1e-4)


def test_a_ratio_with_a_count_of_zero_keeps_its_other_bound() -> None:
    unbounded, none = ratio_of(50, 55, 0, 43), ratio_of(0, 55, 10, 43)
    assert unbounded["value"] is unbounded["high"] is None
    assert unbounded["low"] is not None
    assert 5 < unbounded["low"] < 50 / 55 / (1 / 43)  # less than with one false alarm found
    assert (none["value"], none["low"]) == (0.0, 0.0)
    assert none["high"] is not None
    assert none["high"] < 1
    assert ratio_text(unbounded).endswith(", ∞]")
    assert ratio_text(ratio_of(0, 5, 0, 5)) == ratio_text(ratio_of(0, 0, 1, 5)) == "–"
    # the reciprocal swaps the bounds
    assert 1 / unbounded["low"] == pytest.approx(ratio_of(0, 43, 50, 55)["high"])


def test_predictive_values_are_bayes_theorem() -> None:
    counts: DecisionCounts = {"true_positives": 45, "false_negatives": 10, "false_positives": 8, "true_negatives": 35}
    ratios = likelihood_ratios(counts)
    sensitivity, specificity = 45 / 55, 35 / 43
    for prevalence in (0.01, 0.3, 55 / 98):
        rates = expected_rates(counts, ratios, prevalence)
        found, called = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
        missed, rejected = prevalence - found, 1 - prevalence - called
        shares = {
            "true_positives": found,
            "false_positives": called,
            "false_negatives": missed,
            "true_negatives": rejected,
        }
        for name, value in shares.items():
            assert rates[name]["value"] == pytest.approx(value)
            assert rates[name]["low"] < value < rates[name]["high"]
        assert rates["ppv"]["value"] == pytest.approx(found / (found + called))
        assert rates["npv"]["value"] == pytest.approx(rejected / (rejected + missed))
        assert rates["npv"]["low"] < rates["npv"]["value"] < rates["npv"]["high"]
    here = expected_rates(counts, ratios, 55 / 98)
    assert here["ppv"]["value"] == pytest.approx(45 / 53)  # at the prevalence of the scans it is what they count
    assert probability_after(0.2, ratio_of(50, 55, 0, 43))["value"] == 1.0


def test_half_width_is_half_of_the_interval_of_statsmodels() -> None:
    for k, n in ((12, 24), (23, 24), (24, 24), (0, 19), (50, 98)):
        low, high = proportion_confint(k, n, method="wilson")
        assert half_width(k / n, n) == pytest.approx((high - low) / 2)
    n = scans_for(0.9, 0.05)
    assert half_width(0.9, n) <= 0.05 < half_width(0.9, n - 1)
    assert n == pytest.approx(0.9 * 0.1 * (1.96 / 0.05) ** 2, abs=5)  # the normal approximation


def test_the_decision_is_that_of_the_operating_point() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [24, 55, 19])
    probabilities = rng.dirichlet(np.ones(3), len(truth)) * 0.5 + 0.5 * np.eye(3)[truth]
    use = clinical_use(probabilities, truth, SPGC_CLASSES, POINT, calibrated=None, prevalences=(0.05,))
    assert use is not None
    called = probabilities[:, 1] >= 0.4
    counts = [int((called & (truth == 1)).sum()), int((~called & (truth == 1)).sum())]
    assert [use["counts"]["true_positives"], use["counts"]["false_negatives"]] == counts
    assert sum(use["counts"].values()) == 98
    assert [row["prevalence"] for row in use["expected"]] == [55 / 98, 0.05]
    calibrated = np.full_like(probabilities, 1 / 3)
    other = clinical_use(probabilities, truth, SPGC_CLASSES, POINT, calibrated=calibrated, prevalences=())
    assert other is not None
    assert other["counts"] == use["counts"]  # the threshold is of stage 2's own probabilities
    assert other["calibrated"]
    assert other["decision_curve"] != use["decision_curve"]
    assert clinical_use(probabilities[:24], truth[:24], SPGC_CLASSES, POINT, calibrated=None, prevalences=()) is None


def test_a_prevalence_of_no_class_is_refused() -> None:
    nothing = np.ones((2, 3)) / 3, np.array([0, 1])
    assert clinical_use(*nothing, SPGC_CLASSES, None, calibrated=None, prevalences=()) is None
    with pytest.raises(ConfigurationError, match="threshold_class="):
        clinical_use(*nothing, SPGC_CLASSES, None, calibrated=None, prevalences=(0.1,))


@pytest.mark.parametrize(("n_positive", "n_negative", "distance"), [(24, 74, 1.5), (55, 43, 2.5), (19, 79, 1.0)])
def test_net_benefit_s_interval_covers(n_positive: int, n_negative: int, distance: float) -> None:
    """At the paper's class counts: 400 cohorts, at least 93% at each threshold. Probabilities are binormal scores."""
    rng = np.random.default_rng(0)
    thresholds, share = (0.2, 0.5, 0.8), n_positive / (n_positive + n_negative)
    logits = np.log(np.array(thresholds) / (1 - np.array(thresholds)))

    def above(mean: float) -> np.ndarray:
        return np.array([0.5 * math.erfc((logit - mean) / math.sqrt(2)) for logit in logits])

    harm = np.array(thresholds) / (1 - np.array(thresholds))
    true = share * above(distance / 2) - (1 - share) * harm * above(-distance / 2)
    positive = np.arange(n_positive + n_negative) < n_positive
    covered = np.zeros(3)
    for _ in range(400):
        score = rng.normal(np.where(positive, distance / 2, -distance / 2), 1)
        curve = decision_curve(positive, 1 / (1 + np.exp(-score)), thresholds)
        covered += (np.array(curve["low"]) <= true) & (true <= np.array(curve["high"]))
    assert (covered / 400 > 0.93).all()
