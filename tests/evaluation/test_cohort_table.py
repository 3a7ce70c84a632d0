"""Table 1 against counts by pandas and standardised differences by other formulas; the flow of scans."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.subgroups import CLASSES, simulated_cohort
from cnr_iemn.evaluation.subgroups.cohort_table import cohort_table, mean_difference, share_difference
from cnr_iemn.evaluation.subgroups.scan_flow import scan_flow, short_reason


def dummies(counts: list[int]) -> np.ndarray:
    """0 or 1 for each scan and each group but the first."""
    return np.eye(len(counts))[np.repeat(np.arange(len(counts)), counts)][:, 1:]


def test_shares_differ_as_in_yang_and_dalton() -> None:
    """Their formula, with covariances estimated from indicators, and the one for two groups (Austin 2009)."""
    first, second = [30, 12, 8], [20, 25, 15]
    one, two = dummies(first), dummies(second)
    covariance = (np.cov(one.T, ddof=0) + np.cov(two.T, ddof=0)) / 2
    step = one.mean(axis=0) - two.mean(axis=0)
    expected = np.sqrt(step @ np.linalg.inv(covariance) @ step)
    assert share_difference(np.array(first), np.array(second)) == pytest.approx(expected)
    p, q = 0.6, 0.45
    expected = abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2)
    assert share_difference(np.array([60, 40]), np.array([45, 55])) == pytest.approx(expected)
    assert share_difference(np.array([60, 40, 0]), np.array([45, 55, 0])) == pytest.approx(expected)
    assert share_difference(np.array([30, 10]), np.array([60, 20])) == pytest.approx(0, abs=1e-9)


def test_no_difference_where_it_is_not_defined() -> None:
    assert share_difference(np.array([10, 0]), np.array([0, 10])) is None  # all of one against all of another
    assert share_difference(np.array([10, 0]), np.array([8, 0])) == 0
    assert share_difference(np.array([3, 1]), np.array([60, 20])) is None
    assert mean_difference(np.ones(8), np.zeros(8)) is None


def test_means_differ_in_pooled_deviations() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 2, 40), rng.normal(5, 1, 70)
    pooled = np.sqrt((np.std(first, ddof=1) ** 2 + np.std(second, ddof=1) ** 2) / 2)
    expected = abs(np.mean(first) - np.mean(second)) / pooled
    assert mean_difference(first, second) == pytest.approx(expected)


def test_every_cell_is_the_count_of_pandas_or_hidden() -> None:
    patients, groups = simulated_cohort(0)
    groups.iloc[::9, groups.columns.get_loc("site")] = None
    numbers = pd.DataFrame({"slices": np.arange(len(patients)) % 50 + 100.0}, index=patients.index)
    numbers.iloc[:76, 0] = np.nan
    table = cohort_table(patients, groups, numbers, CLASSES)
    assert [(each["label"], each["split"], each["n"]) for each in table["strata"]] == [
        ("Normal", "training", 52), ("Normal", "validation", 24), ("CAP", "training", 41), ("CAP", "validation", 19),
        ("COVID-19", "training", 116), ("COVID-19", "validation", 55),
    ]  # fmt: skip
    for name, group in table["groups"].items():
        counts = pd.crosstab(groups[name].fillna("?"), [patients["label"], patients["split"]])
        shown = {**group["counts"], "?": group["missing"]}
        for value, cells in shown.items():
            for stratum, cell in zip(table["strata"], cells, strict=True):
                n = 0 if value not in counts.index else counts.loc[value].get((stratum["label"], stratum["split"]), 0)
                assert cell in (n, None)
                assert not 0 < n < 5 or cell is None or value == "?"
    inside = numbers["slices"][(patients["label"] == "CAP") & (patients["split"] == "validation")]
    assert table["numbers"]["slices"]["quartiles"][3] == pytest.approx(np.quantile(inside, [0.25, 0.5, 0.75]))
    assert table["numbers"]["slices"]["quartiles"][:2] == [None, None]  # not known of any Normal scan
    assert table["numbers"]["slices"]["missing"][:3] == [52, 24, 0]
    assert table["groups"]["sex"]["differences"]["split"] is not None


def test_a_scan_is_found_refused_left_out_or_split() -> None:
    sides = ["training", "validation", "training"]
    scans = pd.DataFrame({"label": ["a", "a", "b"], "split": sides}, index=["1", "2", "3"])
    refusals = {
        "x1": "x1/IM7.dcm: ImagePositionPatient is missing or makes no sense. The order rests on it.",
        "x2": "x2/IM9.dcm: ImagePositionPatient is missing or makes no sense. The order rests on it.",
        "x3": "x3: 12 slices missing between 3 and 4. Copy it again.",
        "y": "y: read since",
    }
    flow = scan_flow(
        scans, ("a", "b"), slice_labelled=["1"], n_cohort=5, left_out=["x1", "x2", "x3", "z"], refusals=refusals
    )
    assert flow == {
        "total": 9,
        "refused": {"ImagePositionPatient is missing or makes no sense": 2, "n slices missing between n and n": 1},
        "excluded": 1, "unclassed": 2, "slice_labelled": 1,
        "training": {"a": 1, "b": 1}, "validation": {"a": 1, "b": 0},
    }  # fmt: skip


def test_a_reason_names_no_scan_and_no_file() -> None:
    assert short_reason("P1", "P1: P1/a and P1/b have the same position but other pixels: two times.") == (
        "a file and a file have the same position but other pixels"
    )
    long = short_reason("P1", "P1: " + "word " * 40)
    assert len(long) < 65
    assert long.endswith("word ...")
    assert short_reason("P1", "the decoder process ended by signal 9. Scan refused.") == (
        "the decoder process ended by signal n"
    )
