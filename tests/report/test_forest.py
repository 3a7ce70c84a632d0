"""The forest plots of the report: every row's interval lies where the axis says, and the ensemble stands apart."""

import re

import numpy as np
import pytest

from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report.forest import Forest, comparison_forest, make_forest, method_forest
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.tables import ResultTable
from tests.report.test_study_report import study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results() -> Results:
    return study(options=EvidenceOptions(permutations=2, methods=True, method_repeats=1))


def html_of(forest: Forest) -> str:
    source = '{% from "pieces.html" import forest_of %}{{ forest_of(forest) }}'
    templates = page_templates()
    return templates.overlay(autoescape=True).from_string(source).render(forest=forest)


def on_axis(position: float, forest: Forest) -> float:
    first, last = float(forest.ticks[0]), float(forest.ticks[2])
    return first + position / 100 * (last - first)


def test_rows_are_drawn_where_their_cells_say(results: Results) -> None:
    forest = comparison_forest(results.metrics)
    accuracy = forest.table.columns.index("accuracy")
    for row, bar in zip(forest.table.rows, forest.bars, strict=True):
        assert bar is not None
        value, low, high = (float(part) for part in re.findall(r"[\d.]+", row[accuracy]))
        assert on_axis(bar.value, forest) == pytest.approx(value, abs=0.02)
        assert on_axis(bar.low, forest) == pytest.approx(low, abs=0.06)
        assert on_axis(bar.high, forest) == pytest.approx(high, abs=0.06)
        assert 0 <= bar.low <= bar.value <= bar.high <= 100


def test_the_ensemble_leads_in_bold_and_baselines_stand_apart_the_best_first(results: Results) -> None:
    metrics = results.metrics
    forest = comparison_forest(metrics)
    names = [row[0] for row in forest.table.rows]
    assert names[:3] == ["ResNeXt-50 + DenseNet-161", "ResNeXt-50", "DenseNet-161"]
    assert set(forest.groups) == {1, 3}
    assert forest.groups[3] == "Baselines without a network"
    accuracies = [metrics["baselines"][name]["accuracy"] for name in names[3:]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert set(names[3:]) == set(metrics["baselines"])
    html = html_of(forest)
    assert re.findall(r'<tr class="primary"><th scope="row">([^<]+)</th>', html) == [names[0]]
    assert html.count("<tbody") == 3


def test_differences_are_those_of_the_paired_tests(results: Results) -> None:
    metrics = results.metrics
    forest = comparison_forest(metrics)
    columns = forest.table.columns
    tests = [
        *metrics["comparisons"].values(),
        *(metrics["baseline_comparisons"][row[0]] for row in forest.table.rows[3:]),
    ]
    for row, test in zip(forest.table.rows[1:], tests, strict=True):
        assert row[columns.index("ensemble minus row")].startswith(f"{100 * test['difference']:+.2f} [")
        assert row[columns.index("discordant scans")] == f"{test['only_first']} : {test['only_second']}"


def test_the_primary_method_is_in_bold(results: Results) -> None:
    forest = method_forest(results.metrics)
    assert forest.primary is not None
    assert forest.table.rows[forest.primary][0] == "XGBoost on percentages"
    assert len(forest.bars) == len(results.metrics["methods"] or {})


def test_a_row_without_scans_or_interval_is_drawn_as_far_as_known() -> None:
    table = ResultTable("t", ("a",), (("x",), ("y",), ("z",)))
    values = ({"value": 0.5, "low": None, "high": None}, {"value": None, "low": None, "high": None})
    forest = make_forest(table, [*values, {"value": 1.0, "low": 0.7, "high": 1.0}], primary=None)  # type: ignore[list-item]
    known, unknown, best = forest.bars
    assert unknown is None
    assert known is not None
    assert known.low == known.value == known.high == 0
    assert best is not None
    assert best.value == 100
    assert forest.ticks == ("50", "75", "100")
    assert forest.reference is None
    html = html_of(forest)
    assert html.count("<i style") == 2
    assert not np.isnan(best.low)
