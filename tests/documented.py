"""The tables of docs/guide/dicom.md, for what is done to be compared with."""

from tests.pipeline import ROOT


def documented(title: str) -> list[list[str]]:
    """The rows of a table of docs/guide/dicom.md, the one with this in its head, without its backticks."""
    lines = (ROOT / "docs" / "guide" / "dicom.md").read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("|") and title in line)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows
