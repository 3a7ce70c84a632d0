"""A threshold fixed on training scans: counted by hand, and deaf to the validation scans."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.patients.evidence.beside import Wanted
from cnr_iemn.patients.evidence.beside_tables import evidence_tables
from cnr_iemn.patients.evidence.operating_point import operating_point, threshold_class
from cnr_iemn.patients.evidence.results import assemble_results
from cnr_iemn.registry import SPGC_CLASSES
from tests.builders import make_predictions, make_scans, make_summaries

RNG = np.random.default_rng(5)
TRUTH, OTHERS = np.repeat([0, 1, 2], [20, 30, 10]), np.repeat([0, 1, 2], [9, 11, 6])


def told(truth: np.ndarray) -> np.ndarray:
    return np.array([RNG.dirichlet(np.ones(3) + 1.5 * np.eye(3)[k]) for k in truth])


WITHIN, ANSWERS = told(TRUTH), told(OTHERS)


def wilson(k: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    middle, half = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return middle - half, middle + half


def test_threshold_and_figures_by_hand() -> None:
    found = operating_point(WITHIN, TRUTH, ANSWERS, OTHERS, SPGC_CLASSES, label="COVID-19", sensitivity=0.9)
    threshold = sorted(p for p, k in zip(WITHIN[:, 1], TRUTH, strict=True) if k == 1)[3]  # 27 of 30 reach it
    assert found["threshold"] == threshold
    assert found["training_sensitivity"] == 0.9
    assert found["training_specificity"] == pytest.approx(np.mean(WITHIN[TRUTH != 1, 1] < threshold))
    hits = sum(p >= threshold for p, k in zip(ANSWERS[:, 1], OTHERS, strict=True) if k == 1)
    passed = sum(p < threshold for p, k in zip(ANSWERS[:, 1], OTHERS, strict=True) if k != 1)
    for key, k, n in (("sensitivity", hits, 11), ("specificity", passed, 15)):
        low, high = wilson(k, n)
        assert found[key] == {"value": k / n, "low": pytest.approx(low), "high": pytest.approx(high)}


def test_it_does_not_know_the_validation_scans() -> None:
    one, other = (
        operating_point(WITHIN, TRUTH, answers, OTHERS, SPGC_CLASSES, label="COVID-19", sensitivity=0.8)
        for answers in (ANSWERS, ANSWERS[:, [1, 2, 0]])
    )
    keys = ("threshold", "training_sensitivity", "training_specificity")
    assert [one[key] for key in keys] == [other[key] for key in keys]
    assert one["sensitivity"] != other["sensitivity"]


def test_whose_threshold() -> None:
    assert threshold_class("auto", SPGC_CLASSES) == "COVID-19"
    assert threshold_class("auto", ("healthy", "sick")) is None
    assert threshold_class(None, SPGC_CLASSES) is None
    assert threshold_class("sick", ("healthy", "sick")) == "sick"
    with pytest.raises(ConfigurationError, match=r"threshold_class=ill .* healthy, sick, auto"):
        threshold_class("ill", ("healthy", "sick"))


def test_the_booster_s_point_is_told_without_the_methods_and_none_without_a_class() -> None:
    scans = make_scans(6, 4)
    predictions = {"resnext50": make_predictions("resnext50", scans, skill=0.4)}
    wanted = Wanted(threshold_class="CAP", threshold_sensitivity=0.5)
    metrics = assemble_results(predictions, make_summaries(scans), cohort="three", wanted=wanted).metrics
    assert metrics["operating_point"]["label"] == "CAP"
    assert metrics["operating_point"]["training_sensitivity"] >= 0.5
    table = evidence_tables(metrics)[-1]
    assert len(table.rows) == 1
    assert "50.00%" in str(table.caption)
    metrics = assemble_results(
        predictions, make_summaries(scans), cohort="three", wanted=replace(wanted, threshold_class=None)
    ).metrics
    assert metrics["operating_point"] is None
