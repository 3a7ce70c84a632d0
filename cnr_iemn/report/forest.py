"""Forest plots: tables in which each row also draws its accuracy with the interval."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import (
    NONE,
    ResultTable,
    by_class,
    difference_text,
    make_table,
    percent,
    with_interval,
)
from cnr_iemn.report.tables.methods import method_table
from cnr_iemn.report.tables.results import (
    accuracy_interval,
    ensemble_title,
    has_paper_reference,
    model_title,
    paper_accuracy,
    scans_text,
)
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.statistics.metrics import Scores
from cnr_iemn.statistics.paired_tests import Comparison

_BASELINE = "baseline: "  # no backbone is called so
_STEP = 10  # percent to which the axis is rounded


@dataclass(frozen=True)
class Bar:
    """A row's accuracy and interval on the axis, 0 (left) to 100 (right); ``low`` and ``high`` may be ``value``."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Forest:
    """A table with a drawn interval in each row.

    Attributes:
        table: Its texts.
        bars: Of each row; None where nothing was measured.
        ticks: Labels of the axis at its left, middle and right.
        groups: Heading before a row, by the row's index.
        primary: Index of the row that is set in bold; None for no row.
    """

    table: ResultTable
    bars: tuple[Bar | None, ...]
    ticks: tuple[str, str, str]
    groups: Mapping[int, str]
    primary: int | None

    @property
    def reference(self) -> Bar | None:
        """The bar of the primary row, at which a line runs through all rows."""
        return None if self.primary is None else self.bars[self.primary]


def make_forest(
    table: ResultTable, estimates: Sequence[Estimate], *, primary: int | None, groups: Mapping[int, str] | None = None
) -> Forest:
    """Return a table with its intervals drawn on one axis that ends at 100%. ``estimates``: of each row."""
    lows = [100 * _low(estimate) for estimate in estimates if estimate["value"] is not None]
    start = max(0.0, _STEP * math.floor(min(lows, default=0.0) / _STEP))
    start = min(start, 100.0 - 2 * _STEP)
    ticks = tuple(f"{value:g}" for value in (start, (start + 100) / 2, 100.0))
    bars = tuple(_bar(estimate, start) for estimate in estimates)
    return Forest(table, bars, (ticks[0], ticks[1], ticks[2]), groups or {}, primary)


def _low(estimate: Estimate) -> float:
    value = estimate["value"] or 0.0
    return value if estimate["low"] is None else estimate["low"]


def _bar(estimate: Estimate, start: float) -> Bar | None:
    value = estimate["value"]
    if value is None:
        return None
    low, high = (value if bound is None else bound for bound in (estimate["low"], estimate["high"]))
    first, middle, last = (100 * (100 * share - start) / (100 - start) for share in (low, value, high))
    return Bar(round(first, 2), round(middle, 2), round(last, 2))


@dataclass(frozen=True)
class _Rival:
    """The ensemble, a backbone or a baseline.

    ``comparison``: of the ensemble with it; None for itself. ``paper``: its accuracy in the paper, percent.
    """

    scores: Scores
    comparison: Comparison | None
    paper: str = NONE


def comparison_forest(metrics: StudyMetrics) -> Forest:
    """Return the ensemble, each backbone alone and each baseline (the best first) on the same validation scans."""
    rows: dict[str, _Rival] = {ensemble_title(metrics): _Rival(metrics, None, paper_accuracy(metrics))}
    groups = {}
    if len(metrics["models"]) > 1:
        groups[1] = "One backbone alone, with a stage 2 of its own"
        rows |= {
            model_title(name): _Rival(scores, metrics["comparisons"][name], paper_accuracy(metrics, name))
            for name, scores in metrics["backbones"].items()
        }
    groups[len(rows)] = "Baselines without a network"
    baselines = metrics["baselines"]
    for name in sorted(baselines, key=lambda name: baselines[name]["accuracy"] or 0.0, reverse=True):
        rows[f"{_BASELINE}{name}"] = _Rival(baselines[name], metrics["baseline_comparisons"][name])
    cells: dict[str, Callable[[_Rival], str]] = {
        "accuracy": lambda row: with_interval(accuracy_interval(row.scores)),
        "ensemble minus row": lambda row: (
            NONE if row.comparison is None else difference_text(row.comparison["difference"], row.comparison)
        ),
        "p, Holm": lambda row: NONE if row.comparison is None else f"{row.comparison['p_holm']:.2g}",
        "discordant scans": lambda row: (
            NONE if row.comparison is None else f"{row.comparison['only_first']} : {row.comparison['only_second']}"
        ),
        "balanced accuracy": lambda row: percent(row.scores["balanced_accuracy"]),
        **by_class(metrics["classes"], "recall {}", lambda row, name: percent(row.scores["sensitivity"][name])),
    }
    if has_paper_reference(metrics):
        cells["paper: SPGC validation, 98 scans: accuracy"] = lambda row: row.paper
    rivals = "backbones and baselines" if len(metrics["models"]) > 1 else "baselines"
    title = f"{ensemble_title(metrics)} against {rivals} (Table 2 of the paper), %; {scans_text(metrics)}"
    caption = (
        "Accuracy with Wilson's 95% interval. Ensemble minus row: difference of the accuracies on the same scans, with "
        "Tango's score interval; p of the exact McNemar test, Holm's correction within each group. Discordant "
        "scans: those that only the ensemble, and those that only the row's model, has correct."
    )
    titles = [(name.removeprefix(_BASELINE), row) for name, row in rows.items()]
    table = make_table(title, "model", titles, cells, caption=caption)
    return make_forest(table, [accuracy_interval(row.scores) for row in rows.values()], primary=0, groups=groups)


def method_forest(metrics: StudyMetrics) -> Forest:
    """Return the stage-2 methods on the same validation scans, the primary one in bold."""
    methods = metrics["methods"] or {}
    primary = next((k for k, method in enumerate(methods.values()) if method["primary"]), None)
    table = method_table(metrics)
    narrow = [k for k, name in enumerate(table.columns) if not name.startswith("sensitivity ")]  # too wide for the page
    columns, *rows = (tuple(cells[k] for k in narrow) for cells in (table.columns, *table.rows))
    return make_forest(
        replace(table, columns=columns, rows=tuple(rows)),
        [method["intervals"]["accuracy"] for method in methods.values()],
        primary=primary,
    )
