"""A threshold fixed on training scans: by hand, and independent of the validation scans."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.evaluation.operating_point import operating_point, threshold_class
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.stage2.calibration import CalibrationScans
from tests.builders import make_predictions, make_scans, make_summaries

RNG = np.random.default_rng(5)
ALL = CalibrationScans(np.ones(60, bool), np.ones(60), optimistic=True)
TRUTH, OTHERS = np.repeat([0, 1, 2], [20, 30, 10]), np.repeat([0, 1, 2], [9, 11, 6])


def told(truth: np.ndarray) -> np.ndarray:
    return np.array([RNG.dirichlet(np.ones(3) + 1.5 * np.eye(3)[k]) for k in truth])


WITHIN, ANSWERS = told(TRUTH), told(OTHERS)


def wilson(k: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    middle, half = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return middle - half, middle + half


def test_threshold_and_figures_by_hand() -> None:
    found = operating_point(WITHIN, TRUTH, ANSWERS, OTHERS, SPGC_CLASSES, scans=ALL, label="COVID-19", sensitivity=0.9)
    threshold = sorted(p for p, k in zip(WITHIN[:, 1], TRUTH, strict=True) if k == 1)[2]  # 28 of 30 reach it: of 31 90%
    assert found["threshold"] == threshold
    assert found["training_sensitivity"] == pytest.approx(28 / 30)
    assert found["training_specificity"] == pytest.approx(np.mean(WITHIN[TRUTH != 1, 1] < threshold))
    hits = sum(p >= threshold for p, k in zip(ANSWERS[:, 1], OTHERS, strict=True) if k == 1)
    passed = sum(p < threshold for p, k in zip(ANSWERS[:, 1], OTHERS, strict=True) if k != 1)
    for key, k, n in (("sensitivity", hits, 11), ("specificity", passed, 15)):
        low, high = wilson(k, n)
        assert found[key] == {"value": k / n, "low": pytest.approx(low), "high": pytest.approx(high)}


def test_the_threshold_does_not_depend_on_the_validation_scans() -> None:
    one, other = (
        operating_point(WITHIN, TRUTH, answers, OTHERS, SPGC_CLASSES, scans=ALL, label="COVID-19", sensitivity=0.8)
        for answers in (ANSWERS, ANSWERS[:, [1, 2, 0]])
    )
    keys = ("threshold", "training_sensitivity", "training_specificity")
    assert [one[key] for key in keys] == [other[key] for key in keys]
    assert one["sensitivity"] != other["sensitivity"]


def test_the_class_of_the_threshold() -> None:
    assert threshold_class("auto", SPGC_CLASSES) == "COVID-19"
    assert threshold_class("auto", ("healthy", "sick")) is None
    assert threshold_class(None, SPGC_CLASSES) is None
    assert threshold_class("sick", ("healthy", "sick")) == "sick"
    with pytest.raises(ConfigurationError, match=r"threshold_class=ill .* healthy, sick, auto"):
        threshold_class("ill", ("healthy", "sick"))


def test_the_booster_s_point_needs_no_methods_but_needs_the_class() -> None:
    scans = make_scans(6, 4)
    predictions = {"resnext50": make_predictions("resnext50", scans, skill=0.4)}
    options = EvidenceOptions(threshold_class="CAP", threshold_sensitivity=0.5)
    metrics = assemble_results(predictions, make_summaries(scans), cohort="three", options=options).metrics
    assert metrics["operating_point"]["label"] == "CAP"
    assert metrics["operating_point"]["training_sensitivity"] >= 0.5
    table = next(each for each in evidence_tables(metrics) if each.title.startswith("Decision threshold for CAP"))
    assert len(table.rows) == 1
    assert "50.00%" in str(table.caption)
    metrics = assemble_results(
        predictions, make_summaries(scans), cohort="three", options=replace(options, threshold_class=None)
    ).metrics
    assert metrics["operating_point"] is None
