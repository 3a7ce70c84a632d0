"""Cells of CSV files that people open in a spreadsheet, which would run text that begins as a formula does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # readers of scans import this module, and pandas is half of their start
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: with an apostrophe before it where it begins as one.

    Source: OWASP, "CSV Injection". A text that begins so already gets another, so that ``plain_cell`` can undo it.
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def plain_cell(text: str) -> str:
    """Return the text of a cell that ``harmless`` has made; any other cell as it is."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def _cell(value: object) -> object:
    return harmless(value) if isinstance(value, str) else value


def people_csv(table: "pd.DataFrame", *, header: bool = True) -> str:
    """Return a table as CSV whose texts are harmless; numbers stay numbers.

    Args:
        table: Without an index that counts.
        header: Begin with the names of the columns.

    Returns:
        CSV, lines ended by LF.
    """
    texts = [name for name in table.columns if table[name].dtype.kind not in "biufc"]  # no numbers
    safe = table.assign(**{name: table[name].map(_cell) for name in texts})
    return safe.rename(columns=lambda name: harmless(str(name))).to_csv(index=False, header=header, lineterminator="\n")
