from typing import Any

import pytest
from rich.console import Console

from cnr_iemn.patients.results import assemble_results
from cnr_iemn.patients.tables import ResultTable, confusion_table, result_tables, scan_table, slice_table
from cnr_iemn.registry import BACKBONES, PHANTOM_NOTICE
from tests.builders import make_predictions, make_scans, make_summaries

SCANS = make_scans(4, 4)


def metrics(*models: str, **metadata: object) -> dict[str, Any]:
    predictions = {name: make_predictions(name, SCANS, **metadata) for name in models}
    return assemble_results(predictions, make_summaries(SCANS), cohort="phantom").metrics


@pytest.fixture(scope="module")
def of_four() -> dict[str, Any]:
    return metrics(*BACKBONES, phantom=True)


def printed(table: ResultTable, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table.rich())
    return capture.get()


def test_table_1_shows_the_paper_s_figures_beside_this_cohort_s(of_four: dict[str, Any]) -> None:
    table = slice_table(of_four)
    assert table.columns == (
        "model",
        "this cohort: phantom, validation, 498 slices: accuracy",
        "this cohort: phantom, validation, 498 slices: balanced accuracy",
        "paper: SPGC validation: accuracy",
        "note",
    )
    assert [(row[0], row[3]) for row in table.rows[:4]] == [
        ("ResNeXt-50", "88.91"),
        ("DenseNet-161", "88.61"),
        ("Inception-v3", "88.74"),
        ("Wide-ResNet-50", "88.37"),
    ]
    scores = [of_four["slices"][name] for name in BACKBONES]
    assert [row[1] for row in table.rows[:4]] == [f"{100 * each['accuracy']:.2f}" for each in scores]
    assert [row[2] for row in table.rows[:4]] == [f"{100 * each['balanced_accuracy']:.2f}" for each in scores]
    assert [row[0] for row in table.rows[4:]] == [
        "baseline: majority class",
        "baseline: position alone",
        "baseline: lung area alone",
    ]
    assert all(row[3:] == ("–", "") for row in table.rows[4:])


def test_table_2_shows_both_accuracies_and_the_paper_s(of_four: dict[str, Any]) -> None:
    table = scan_table(of_four)
    assert table.columns[1] == "this cohort: phantom, validation, 12 scans: accuracy"
    assert table.columns[2] == "this cohort: phantom, validation, 12 scans: balanced accuracy"
    assert table.columns[3] == "paper: SPGC validation, 98 scans: accuracy"
    assert [(row[0], row[3]) for row in table.rows[:5]] == [
        ("ResNeXt-50 features", "79.59"),
        ("DenseNet-161 features", "82.65"),
        ("Inception-v3 features", "85.71"),
        ("Wide-ResNet-50 features", "80.61"),
        ("CNR-IEMN", "87.75"),
    ]
    assert table.rows[4][1] == f"{100 * of_four['accuracy']:.2f}"
    assert table.rows[4][2] == f"{100 * of_four['balanced_accuracy']:.2f}"
    assert len(table.rows) == 5 + 7
    baseline = of_four["baselines"]["lung litres"]
    row = next(row for row in table.rows if row[0] == "baseline: lung litres")
    assert row[1:] == (f"{100 * baseline['accuracy']:.2f}", f"{100 * baseline['balanced_accuracy']:.2f}", "–", "")
    assert table.caption is not None
    assert f"p = {of_four['majority_p']:.2g}" in table.caption


def test_figure_4_shows_counts_and_sensitivities(of_four: dict[str, Any]) -> None:
    table = confusion_table(of_four)
    assert [row[0] for row in table.rows] == ["Normal", "COVID-19", "CAP"]
    assert [row[-1] for row in table.rows] == ["95.83", "96.36", "52.63"]
    assert [[int(cell) for cell in row[1:4]] for row in table.rows] == of_four["confusion_matrix"]
    assert table.rows[2][4] == f"{100 * of_four['sensitivity']['CAP']:.2f}"


def test_figures_on_the_set_that_chose_the_checkpoint_are_marked() -> None:
    chosen = {"slices": slice_table, "scans": scan_table}
    for make in chosen.values():
        best, last = make(metrics("resnext50")), make(metrics("resnext50", checkpoint="last"))
        assert best.rows[0][-1] == "selected on this set"
        assert {row[-1] for row in best.rows[1:]} == {""}
        assert {row[-1] for row in last.rows} == {""}
    assert confusion_table(metrics("resnext50")).caption == "selected on this set"
    assert confusion_table(metrics("resnext50", checkpoint="last")).caption is None


def test_phantom_studies_are_headed_by_the_notice_and_others_are_not(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        assert printed(table).splitlines()[0].strip() == PHANTOM_NOTICE
    for table in result_tables(metrics("resnext50")):
        assert PHANTOM_NOTICE not in printed(table)


def test_every_cell_is_printed_and_brackets_are_no_markup(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        text = printed(table, width=400)
        assert all(cell in text for row in table.rows for cell in row)
    odd = ResultTable("[b]title", ("model", "[red]x"), (("[i]name", "1"),))
    assert all(part in printed(odd) for part in ("[b]title", "[red]x", "[i]name"))


def test_figures_that_nothing_was_counted_for_are_dashes(of_four: dict[str, Any]) -> None:
    unknown = {"accuracy": None, "balanced_accuracy": None, "n_slices": 0}
    empty = {**of_four, "slices": {"resnext50": unknown}, "slice_baselines": {"position alone": unknown}}
    assert [row[1:3] for row in slice_table(empty).rows] == [("–", "–")] * 2


def test_no_word_is_broken_on_a_terminal_of_80_columns(of_four: dict[str, Any]) -> None:
    for table in result_tables(of_four):
        words = set(printed(table, width=80).replace("│", " ").replace("┃", " ").split())
        assert {word for row in (table.columns, *table.rows) for cell in row for word in cell.split()} <= words


def test_other_ensembles_do_not_borrow_the_paper_s_ensemble() -> None:
    two = metrics("resnext50", "inception_v3")
    assert [(row[0], row[3]) for row in scan_table(two).rows[:3]] == [
        ("ResNeXt-50 features", "79.59"),
        ("Inception-v3 features", "85.71"),
        ("ResNeXt-50 + Inception-v3", "–"),
    ]
    assert {row[-1] for row in confusion_table(two).rows} == {"–"}
    one = metrics("my_net")
    assert [row[0] for row in scan_table(one).rows[:2]] == ["my_net features", "baseline: majority class"]
    assert slice_table(one).rows[0][3] == "–"
