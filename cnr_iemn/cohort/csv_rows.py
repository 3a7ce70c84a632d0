"""CSV files that people write: rows with their lines, and what is wrong in them."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from cnr_iemn.errors import CohortError


@dataclass
class Problems:
    """Everything that is wrong with a file, with its line, to be told at once."""

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Remember what is wrong in a line."""
        self.found.append(f"  {self.path.name}:{line}: {text}")


def read_rows(path: Path, required: set[str], optional: set[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the filled rows of a CSV file (UTF-8, with or without a BOM), each with its line, values stripped.

    Raises CohortError where the file is missing, empty or not UTF-8, or has other columns than these.
    """
    if not path.is_file():
        raise CohortError(f"{path} does not exist. Give the path of a CSV file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        there = {name.strip() for name in reader.fieldnames or ()}
        missing, unknown = required - there, there - required - optional
        if missing or unknown:
            raise CohortError(
                f"{path}: columns {', '.join(sorted(there)) or 'none'}; "
                + (f"missing {', '.join(sorted(missing))}; " if missing else "")
                + (f"unknown {', '.join(sorted(unknown))}; " if unknown else "")
                + f"known are {', '.join(sorted(required | optional))}."
            )
        rows = []
        for row in reader:
            if None in row:
                raise CohortError(
                    f"{path}:{reader.line_num}: more fields than columns. Quote a field that has a comma."
                )
            values = {key.strip(): (value or "").strip() for key, value in row.items()}
            if any(values.values()):
                rows.append((reader.line_num, values))
    if not rows:
        raise CohortError(f"{path} lists nothing. Give a line for each scan.")
    return rows
