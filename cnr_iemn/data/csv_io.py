"""CSV files that people write: rows with line numbers, and reports of their problems."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from cnr_iemn.errors import CohortError
from cnr_iemn.utils.spreadsheet import plain_cell

_LINES = 5  # named, of many with one problem


@dataclass
class Problems:
    """All problems of a file, reported in one message."""

    path: Path
    lines: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Add a problem of one line."""
        self.lines.append(f"  {self.path.name}:{line}: {text}")

    def add_lines(self, lines: Sequence[int], text: str) -> None:
        """Add a problem of several lines; the message names the first few."""
        numbers = ",".join(map(str, lines[:_LINES]))
        more = f" and {len(lines) - _LINES} more lines" if len(lines) > _LINES else ""
        self.lines.append(f"  {self.path.name}:{numbers}{more}: {text}")


def problem_lines(problems: Sequence[str]) -> str:
    """Return problems as lines of a message: the first few of each kind, and how many more there are.

    Args:
        problems: Of ``Problems``. Those that differ in numbers, quoted values or paths alone are of one kind.
    """
    kinds: dict[str, list[str]] = {}
    for line in problems:
        kinds.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\d+", "0", line), []).append(line)
    lines = []
    for similar in kinds.values():
        lines += similar[:_LINES]
        if len(similar) > _LINES:
            lines.append(f"  and {len(similar) - _LINES} more lines like these")
    return "\n".join(lines)


def read_rows(path: Path, required: set[str], optional: set[str] | None) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file that are not empty, each with its line number, values stripped.

    The file is UTF-8, with or without a BOM. The header decides between commas, semicolons and tabs as separators.

    Args:
        path: The file.
        required: Columns that it must have.
        optional: Columns that it may have, or patterns of them such as group_*; None allows any.

    Returns:
        The line on which each row ends, and its values by column.

    Raises:
        CohortError: The file cannot be read, is not UTF-8 or no CSV, is empty, has other columns, or a row is longer or
            shorter than the header.
    """
    text = read_text(path)
    header, _, _ = text.partition("\n")
    delimiter = next((mark for mark in ",;\t" if required <= _names(header, mark)), ",")
    rows: list[tuple[int, dict[str, str]]] = []
    with io.StringIO(text, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(path, columns, required, optional)
            for fields in reader:
                values = [plain_cell(value.strip()) for value in fields]
                if any(values):
                    _check_length(path, reader.line_num, values, columns)
                    rows.append((reader.line_num, {k: v for k, v in zip(columns, values, strict=False) if k}))
        except csv.Error as error:
            raise CohortError(
                f"{path}:{reader.line_num}: this is not CSV ({error}). The usual reason is an unclosed quote: close "
                "it, or double the quotes within a field."
            ) from error
    if not rows:
        raise CohortError(f"{path} lists nothing. Give a line for each scan.")
    return rows


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a BOM. Raises CohortError."""
    if not path.is_file():
        reason = "is no file" if path.exists() else "does not exist"
        raise CohortError(f"{path} {reason}. Give the path of a CSV file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(
            f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8; spreadsheets call that 'CSV UTF-8'."
        ) from error
    except OSError as error:
        raise CohortError(f"{path} cannot be read ({error.strerror}). Give a CSV file that can be read.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CohortError(f"{path}:{line}: a NUL character: this is not CSV, or damaged. Save it as UTF-8 again.")
    return text


def _names(header: str, delimiter: str) -> set[str]:
    return {name.strip().strip('"').strip() for name in header.split(delimiter)}


def _check_columns(path: Path, columns: list[str], required: set[str], optional: set[str] | None) -> None:
    names = {name for name in columns if name}
    missing = required - names
    unknown = set() if optional is None else {name for name in names - required if not _matches(name, optional)}
    duplicates = sorted(name for name, count in Counter(columns).items() if name and count > 1)
    if missing or unknown or duplicates:
        allowed = ", ".join(sorted(required | (optional or set())))
        allowed += ", and any others" if optional is None else ""
        raise CohortError(
            f"{path}: columns {', '.join(filter(None, columns)) or 'none'}; "
            + (f"missing {', '.join(sorted(missing))}; " if missing else "")
            + (f"unknown {', '.join(sorted(unknown))}; " if unknown else "")
            + (f"given twice {', '.join(duplicates)}; " if duplicates else "")
            + f"known are {allowed}."
        )


def _matches(name: str, patterns: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_length(path: Path, line: int, values: list[str], columns: list[str]) -> None:
    if len(values) < len(columns):
        raise CohortError(
            f"{path}:{line}: {len(values)} fields, but {len(columns)} columns: the line was cut, or its last fields "
            "left out. Write every field, an empty one too."
        )
    if any(values[len(columns) :]) or any(not name and value for name, value in zip(columns, values, strict=False)):
        raise CohortError(f"{path}:{line}: more fields than columns. Quote a field that has a comma.")
