import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.proportion import proportion_confint

from cnr_iemn.constants import PAPER_BACKBONES, PHANTOM_NOTICE, SPGC_CLASSES
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.report.tables.results import confusion_table, result_tables, scan_table, slice_table
from tests.builders import make_predictions, make_scans, make_summaries

pytestmark = pytest.mark.slow

SCANS = make_scans(4, 10)  # so many that a bootstrap has its interval


def metrics(*models: str, **metadata: object) -> dict[str, Any]:
    predictions = {name: make_predictions(name, SCANS, **metadata) for name in models}
    return assemble_results(predictions, make_summaries(SCANS), cohort="phantom").metrics


@pytest.fixture(scope="module")
def of_four() -> dict[str, Any]:
    return metrics(*PAPER_BACKBONES, phantom=True)


def printed(table: ResultTable, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table.rich())
    return capture.get()


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """The paper's cohort itself: its figures stand beside."""
    predictions = {name: make_predictions(name, SCANS) for name in PAPER_BACKBONES}
    return assemble_results(predictions, make_summaries(SCANS), cohort="covid_ct_md").metrics


FIGURES = ("accuracy, 95% interval", "balanced accuracy", *(f"recall {name}" for name in SPGC_CLASSES))


def test_table_1_shows_every_figure_of_the_slices(of_four: dict[str, Any]) -> None:
    table = slice_table(of_four)
    assert "phantom, 1239 validation slices" in table.title
    assert table.columns == ("model", *FIGURES, "note")
    for row, name in zip(table.rows, PAPER_BACKBONES, strict=False):
        scores = of_four["slices"][name]
        low, high = (100 * scores["accuracy_interval"][end] for end in ("low", "high"))
        assert low <= 100 * scores["accuracy"] <= high
        assert row[1] == f"{100 * scores['accuracy']:.2f} [{low:.1f}, {high:.1f}]"
        assert row[2] == f"{100 * scores['balanced_accuracy']:.2f}"
        assert row[3:6] == tuple(f"{100 * scores['sensitivity'][label]:.2f}" for label in SPGC_CLASSES)
    assert [row[0] for row in table.rows[4:]] == [
        "baseline: majority class",
        "baseline: position alone",
        "baseline: lung area alone",
    ]
    assert not any("[" in row[1] or row[-1] for row in table.rows[4:])


def test_table_2_shows_every_figure_of_the_scans(of_four: dict[str, Any]) -> None:
    table = scan_table(of_four)
    assert "phantom, 30 validation scans" in table.title
    assert table.columns == ("model", *FIGURES, "note")
    low, high = proportion_confint(np.trace(of_four["confusion_matrix"]), 30, method="wilson")
    assert table.rows[4][:3] == (
        "CNR-IEMN",
        f"{100 * of_four['accuracy']:.2f} [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * of_four['balanced_accuracy']:.2f}",
    )
    assert len(table.rows) == 5 + 7
    baseline = of_four["baselines"]["lung litres"]
    row = next(row for row in table.rows if row[0] == "baseline: lung litres")
    assert row[1].startswith(f"{100 * baseline['accuracy']:.2f} [")
    assert row[2] == f"{100 * baseline['balanced_accuracy']:.2f}"


def test_figure_4_shows_counts_and_sensitivities(of_four: dict[str, Any]) -> None:
    table = confusion_table(of_four)
    assert [row[0] for row in table.rows] == ["Normal", "COVID-19", "CAP"]
    assert [[int(cell) for cell in row[1:4]] for row in table.rows] == of_four["confusion_matrix"]
    assert table.rows[2][4] == f"{100 * of_four['sensitivity']['CAP']:.2f}"
    assert table.rows[2][5].startswith("[")


def test_the_paper_s_figures_are_shown_for_its_cohort(real: dict[str, Any]) -> None:
    table = slice_table(real)
    assert table.columns == ("model", *FIGURES, "paper: SPGC validation: accuracy", "note")
    assert [row[-2] for row in table.rows[:4]] == ["88.91", "88.61", "88.74", "88.37"]
    assert {row[-2] for row in table.rows[4:]} == {"–"}
    table = scan_table(real)
    assert table.columns[-2] == "paper: SPGC validation, 98 scans: accuracy"
    assert [row[-2] for row in table.rows[:5]] == ["79.59", "82.65", "85.71", "80.61", "87.75"]
    assert [row[-1] for row in confusion_table(real).rows] == ["95.83", "96.36", "52.63"]
    assert any(each.title == "The paper's results" for each in evidence_tables(real))


@pytest.mark.parametrize("change", [{"notice": PHANTOM_NOTICE}, {"cohort": "mine"}])
def test_the_paper_s_figures_are_not_shown_for_another_cohort(real: dict[str, Any], change: dict[str, str]) -> None:
    tables = [*result_tables({**real, **change}), *evidence_tables({**real, **change})]
    assert not any("paper" in word for each in tables for word in (*each.columns, each.title, str(each.caption)))
    assert not any("87.75" in cell for each in tables for row in each.rows for cell in row)


def test_figures_on_the_set_that_chose_the_checkpoint_are_marked() -> None:
    chosen = {"slices": slice_table, "scans": scan_table}
    for make in chosen.values():
        best, last = make(metrics("resnext50")), make(metrics("resnext50", checkpoint="last"))
        assert best.rows[0][-1] == "selected on this set"
        assert {row[-1] for row in best.rows[1:]} == {""}
        assert {row[-1] for row in last.rows} == {""}
    assert confusion_table(metrics("resnext50")).caption == "selected on this set"
    assert confusion_table(metrics("resnext50", checkpoint="last")).caption is None


def test_only_phantom_studies_have_the_notice_as_a_heading(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        assert printed(table).splitlines()[0].strip() == PHANTOM_NOTICE
    for table in result_tables(metrics("resnext50")):
        assert PHANTOM_NOTICE not in printed(table)


def test_every_cell_is_printed_and_brackets_are_no_markup(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        text = printed(table, width=400)
        assert all(part in text for row in table.rows for cell in row for part in re.split(r" (?=\[)", cell))
    odd = ResultTable("[b]title", ("model", "[red]x"), (("[i]name", "1"),))
    assert all(part in printed(odd) for part in ("[b]title", "[red]x", "[i]name"))


def test_figures_without_scans_are_dashes(of_four: dict[str, Any]) -> None:
    nothing = dict.fromkeys(SPGC_CLASSES)
    unknown = {"accuracy": None, "balanced_accuracy": None, "sensitivity": nothing, "n_slices": 0}
    none = {"value": None, "low": None, "high": None}
    models = {"resnext50": {**unknown, "accuracy_interval": none}}
    empty = {**of_four, "slices": models, "slice_baselines": {"position alone": unknown}}
    assert [row[1:6] for row in slice_table(empty).rows] == [("–",) * 5] * 2


def test_no_word_breaks_on_a_terminal_of_80_columns(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        words = set(printed(table, width=80).replace("│", " ").replace("┃", " ").split())
        assert {word for row in (table.columns, *table.rows) for cell in row for word in cell.split()} <= words


def test_other_ensembles_do_not_borrow_the_paper_s_ensemble(real: dict[str, Any]) -> None:
    predictions = {name: make_predictions(name, SCANS) for name in ("resnext50", "inception_v3")}
    two = assemble_results(predictions, make_summaries(SCANS), cohort="covid_ct_md").metrics
    assert [(row[0], row[-2]) for row in scan_table(two).rows[:3]] == [
        ("ResNeXt-50 alone", "79.59"),
        ("Inception-v3 alone", "85.71"),
        ("ResNeXt-50 + Inception-v3", "–"),
    ]
    assert {row[-1] for row in confusion_table(two).rows} == {"–"}
    one = metrics("my_net")
    assert [row[0] for row in scan_table(one).rows[:2]] == ["my_net alone", "baseline: majority class"]
    assert slice_table(one).rows[0][-1] == "selected on this set"


def test_a_table_without_rows_is_its_title_and_caption() -> None:
    source = page_templates().from_string('{% from "pieces.html" import table_of %}{{ table_of(table) }}')
    text = source.render(table=ResultTable("Pairs", ("scan", "other scan"), (), caption="None found."))
    assert "Pairs" in text
    assert "None found." in text
    assert "<thead>" not in text
    full = ResultTable("Pairs", ("scan", "other scan"), (("a", "b"),), caption="One found.")
    assert "<thead>" in source.render(table=full)
