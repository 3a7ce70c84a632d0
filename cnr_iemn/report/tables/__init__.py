"""Tables of the report and of the terminal: rows of one type, a title and a cell for each column."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cnr_iemn.evaluation.study_metrics import Summary
from cnr_iemn.statistics.confidence_intervals import CONFIDENCE, MIN_PATIENTS, Estimate
from cnr_iemn.statistics.paired_tests import Comparison

Row = TypeVar("Row")
Cells = Mapping[str, Callable[[Row], str]]
"""The text of a cell by the title of its column."""

NONE = "–"
NO_INTERVAL = "no interval"
NO_INTERVAL_NOTE = (
    f"No interval: a class has fewer than {MIN_PATIENTS} patients, or every resample gives the same figure."
)
INTERVAL = f"{100 * CONFIDENCE:.0f}% interval"
SELECTED = "selected on this set"


@dataclass(frozen=True)
class ResultTable:
    """A table of plain text. ``notice``: heads the table of a phantom study. ``caption``: below the table.

    Where a cell says "no interval", the caption explains it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notice: str | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        if any(NO_INTERVAL in cell for row in self.rows for cell in row):
            object.__setattr__(self, "caption", f"{self.caption or ''} {NO_INTERVAL_NOTE}".strip())

    def rich(self) -> Table:
        """Return the table for a rich console; cells are text, never markup."""
        heading = f"{self.notice}\n{self.title}" if self.notice else self.title
        caption = Text(self.caption) if self.caption else None
        # no lines between columns, so that eight of them fit into 80 characters
        table = Table(title=Text(heading), caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for position, cells in enumerate(zip(self.columns, *self.rows, strict=True)):
            longest = max((len(word) for cell in cells for word in re.findall(r"\[[^]]*\]\S*|\S+", cell)), default=1)
            if position == 0 or cells[0] == "note":
                table.add_column(Text(cells[0]), min_width=longest)
            else:  # as narrow as its longest word or interval, which leaves room for the names
                table.add_column(Text(cells[0]), justify="right", width=longest)
        for row in self.rows:
            table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
        return table


def make_table(
    title: str,
    head: str,
    rows: Iterable[tuple[str, Row]],
    cells: Cells[Row],
    *,
    notice: str | None = None,
    caption: str | None = None,
) -> ResultTable:
    """Return a table with a row for each item.

    Args:
        title: Of the table.
        head: Title of the first column, which holds the names.
        rows: Name and item of each row.
        cells: Title and cell of each further column.
        notice: Of a phantom study.
        caption: Below the table.
    """
    texts = tuple((name, *(cell(item) for cell in cells.values())) for name, item in rows)
    return ResultTable(title, (head, *cells), texts, notice, caption)


def by_class(classes: Sequence[str], title: str, cell: Callable[[Row, str], str]) -> dict[str, Callable[[Row], str]]:
    """Return a column for each class. ``title``: with {} in the class's place. ``cell``: from item and class."""

    def column(name: str) -> Callable[[Row], str]:
        return lambda item: cell(item, name)

    return {title.format(name): column(name) for name in classes}


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two digits."""
    return NONE if fraction is None else f"{100 * fraction:.2f}"


def percentage(fraction: float | None) -> str:
    """Return a fraction in percent with two digits and the sign, for a sentence."""
    return NONE if fraction is None else f"{percent(fraction)}%"


def signed(fraction: float) -> str:
    """Return a difference in percent with its sign."""
    return f"{100 * fraction + 0.0:+.2f}"  # adding 0 makes -0 a plain 0


def interval_text(estimate: Estimate) -> str:
    """Return the bounds of an interval in percent, with one digit."""
    return _bounds(estimate["value"], estimate["low"], estimate["high"])


def summary_interval(summary: Summary) -> str:
    """Return 5% and 95% of replicates in percent, with one digit."""
    return _bounds(summary["mean"], summary["low"], summary["high"])


def _bounds(value: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return NONE if value is None else NO_INTERVAL
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def with_interval(estimate: Estimate) -> str:
    """Return a metric in percent with its interval."""
    if estimate["value"] is None:
        return NONE
    interval = interval_text(estimate)
    return f"{percent(estimate['value'])} {interval if interval != NO_INTERVAL else f'[{NO_INTERVAL}]'}"


def percentage_with_interval(estimate: Estimate) -> str:
    """Return a metric with the sign of percent and its interval, for a sentence."""
    if estimate["value"] is None:
        return NONE
    return f"{percentage(estimate['value'])} [{interval_text(estimate).strip('[]')}]"


def difference_text(value: float | None, bounds: Estimate | Comparison, *, reverse: bool = False) -> str:
    """Return a difference in percent with its interval. ``reverse``: of the second minus the first."""
    if value is None:
        return NONE
    return f"{signed(-value if reverse else value)} {difference_bounds(bounds, reverse=reverse)}"


def difference_bounds(difference: Estimate | Comparison, *, reverse: bool = False) -> str:
    """Return the bounds of a difference's interval. ``reverse``: of the second minus the first."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return f"[{NO_INTERVAL}]"
    first, second = sorted(100 * (-bound if reverse else bound) + 0.0 for bound in (low, high))
    return f"[{first:+.1f}, {second:+.1f}]"


def training_scans(n: int, optimistic: bool | None) -> str:
    """Return which training scans a temperature or a threshold was fitted on, for a sentence."""
    if optimistic:
        return (
            f"{n} training scans, some of which trained the networks that score them. Networks are over-confident on "
            "those: the fit is optimistic, and new scans will miss the target"
        )
    if optimistic is None:  # an earlier version did not record it
        return f"{n} training scans"
    return f"{n} training scans that did not train the networks that score them"
