"""A reporting checklist: its items, how the facts of a study answer them, and the files and the section they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

from cnr_iemn.report.page_templates import markdown_cell
from cnr_iemn.report.sections import Section
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.spreadsheet import people_csv

COLUMNS = ("item", "section", "what it asks for", "status", "answer of the run", "shown in", "file", "author to fill")


class Status(StrEnum):
    """Who answers an item."""

    RUN = "answered by the run"
    BOTH = "answered by the run in part; author to complete"
    AUTHOR = "author to fill"
    MISSING = "not measured by this run"


@dataclass(frozen=True)
class Statement:
    """What a run says to an item.

    ``place``: the section of report.html that shows it, '' where only the checklist does. ``file``: that it rests on,
    as ``name``, ``name: key, key`` or ``name of each run: key``, joined by semicolons; tests open them.
    """

    sentence: str
    place: str
    file: str


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: As the checklist has it.
        section: Of the checklist.
        request: What it asks for, in our own words.
        topics: Names of the statements that answer it.
        author: What only the author can say; empty for nothing.
    """

    number: str
    section: str
    request: str
    topics: tuple[str, ...] = ()
    author: str = ""


@dataclass(frozen=True)
class Checklist:
    """A checklist. ``source``: its publication."""

    key: str
    title: str
    source: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Answer:
    """An item with what a run says to it."""

    item: Item
    statements: tuple[Statement, ...]

    @property
    def status(self) -> Status:
        """Who answers the item."""
        if not self.statements:
            return Status.AUTHOR if self.item.author else Status.MISSING
        return Status.BOTH if self.item.author else Status.RUN

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of ``COLUMNS``."""
        places, files = (
            "; ".join(dict.fromkeys(filter(None, (getattr(statement, name) for statement in self.statements))))
            for name in ("place", "file")
        )
        sentences = " ".join(statement.sentence for statement in self.statements)
        item = self.item
        return item.number, item.section, item.request, self.status.value, sentences, places, files, item.author


def fill(checklist: Checklist, statements: Mapping[str, Statement]) -> tuple[Answer, ...]:
    """Return an answer to each item. ``statements``: by topic, of what the run knows."""
    return tuple(
        Answer(item, tuple(statements[topic] for topic in item.topics if topic in statements))
        for item in checklist.items
    )


def checklist_table(checklist: Checklist, answers: Sequence[Answer], *, notice: str | None = None) -> ResultTable:
    """Return the filled checklist as a table of the report. ``notice``: of a phantom study."""
    counts = [(status, sum(answer.status is status for answer in answers)) for status in Status]
    caption = "; ".join(f"{status.value}: {count}" for status, count in counts if count)
    return ResultTable(
        f"{checklist.title}: {len(answers)} items",
        COLUMNS,
        tuple(answer.row for answer in answers),
        notice,
        f"{caption}. The requests are paraphrased; the text that counts is {checklist.source}.",
    )


def page_table(checklist: Checklist, answers: Sequence[Answer]) -> ResultTable:
    """Return the same in four columns, for the page."""
    rows = []
    for answer in answers:
        number, _, request, status, sentences, places, _, author = answer.row
        texts = (sentences, f"[{places}]" if places else "", f"Author: {author}." if author else "")
        rows.append((f"{number}. {request}", status, " ".join(filter(None, texts))))
    table = checklist_table(checklist, answers)
    return ResultTable(table.title, ("item", "status", "answer"), tuple(rows), None, table.caption)


def checklist_section(tables: Sequence[ResultTable]) -> Section:
    """Return the section of the report that shows filled checklists, folded. ``tables``: of ``page_table``."""
    text = "Filled from what this run recorded; the rest is left to the author. In brackets: the sections that show it."
    return Section("checklists", "Reporting checklists", text, details=tuple(tables), prose=True)


def write_checklist(folder: Path, name: str, table: ResultTable) -> None:
    """Write a filled checklist as ``<name>.csv`` and ``<name>.md`` into the ensemble's folder."""
    rows = pd.DataFrame(list(table.rows), columns=list(table.columns))
    if table.notice:
        rows.insert(0, "notice", table.notice)
    write_text_atomic(folder / f"{name}.csv", people_csv(rows))
    write_text_atomic(folder / f"{name}.md", markdown_text(table))


def markdown_text(table: ResultTable) -> str:
    """Return a filled checklist as a page of Markdown."""
    lines = [f"# {table.title}", ""]
    lines += [f"**{table.notice}**", ""] if table.notice else []
    lines += [table.caption or "", ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(markdown_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"
