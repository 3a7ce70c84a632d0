"""Text in CSV files for people begins no formula, numbers stay numbers, and ids join again."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.report.page_templates import markdown_cell, markdown_line, page_templates
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.utils.spreadsheet import harmless, people_csv, plain_cell

FORMULAS = ["=cmd|calc!A0", "+1", "-5", "@SUM(A1)", "\t=1", "'=1", "''=1"]


@given(st.text())
def test_every_text_comes_back_and_begins_no_formula(text: str) -> None:
    assert plain_cell(harmless(text)) == text
    assert not harmless(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_numbers_stay_numbers() -> None:
    table = pd.DataFrame({"scan": ["a", *FORMULAS], "z": -1.5, "n": -3, "known": True, "label": [None, *FORMULAS]})
    table["fold"] = pd.array([None, *range(len(FORMULAS))], dtype="Int64")
    read = pd.read_csv(io.StringIO(people_csv(table)), dtype={"scan": str}, keep_default_na=False)
    assert [plain_cell(text) for text in read["scan"]] == ["a", *FORMULAS]
    assert read.loc[0, "scan"] == "a"
    assert (read["z"] == -1.5).all()
    assert (read["n"] == -3).all()
    assert list(read["fold"]) == ["", *map(str, range(len(FORMULAS)))]


@pytest.mark.parametrize("scan_id", ["=cmd|calc!A0", "-5", "'-5", "O'Brien", "'a"])
def test_ids_of_our_csv_are_known_in_labels_and_manifests(tmp_path, scan_id: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(people_csv(pd.DataFrame({"Study": [scan_id], "Label": ["CAP"]})), encoding="utf-8")
    assert read_rows(path, {"Study", "Label"}, set()) == [(2, {"Study": scan_id, "Label": "CAP"})]


def test_a_class_breaks_no_table_of_markdown() -> None:
    table = ResultTable("a\nb", ("one|two", "x"), (("a|b\nc", "<img src=x>"), ("<5% of it", "1")), caption="c\nd")
    templates = page_templates()
    source, _, _ = templates.loader.get_source(templates, "model_card.md")
    macro = source[: source.index("{% endmacro %}")] + "{% endmacro %}{{ table_of(table) }}"
    text = templates.overlay(autoescape=False).from_string(macro).render(table=table)
    assert [line for line in text.splitlines() if line] == [
        r"**a\nb**",
        r"| one\|two | x |",
        "|---|---|",
        r"| a\|b\nc | &lt;img src=x> |",
        "| <5% of it | 1 |",
        r"c\nd",
    ]
    assert markdown_line("a|b") == "a|b"
    assert markdown_cell(1.5) == "1.5"
