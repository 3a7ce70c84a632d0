"""The notebooks run from top to bottom, and are kept with what they showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipeline import ROOT

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "01_scan_and_mask": ["phantom: True", "litres"],
    "03_read_a_report": ["phantom study: no diagnostic meaning", "COVID-19", "cross_validation"],
    "02_train_on_the_phantom": ["phantom study: no diagnostic meaning", "Table 2. Scans", "called COVID-19"],
}
"""What their outputs say."""


def test_there_are_notebooks() -> None:
    assert set(SHOWN) <= {path.stem for path in NOTEBOOKS}


def figures(notebook: nbformat.NotebookNode) -> list[int]:
    """Return the cells that show a picture."""
    cells = enumerate(notebook.cells)
    outputs = [(k, output) for k, cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return [k for k, output in outputs if {"image/png", "image/svg+xml"} & set(output.get("data", {}))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_showed_is_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(
        range(1, len(code) + 1)
    )  # run once, in order: make notebooks
    assert figures(notebook)
    assert path.stat().st_size <= 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_without_a_warning(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel's package is the one that is tested
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # no one's own start-up files
    notebook = nbformat.read(path, as_version=4)
    before = figures(notebook)
    where = tmp_path / "here"
    where.mkdir()
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(where)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    text = "".join(output.get("text", "") + str(output.get("data", {})) for output in outputs)
    assert [said for said in SHOWN.get(path.stem, []) if said not in text] == []
    assert figures(notebook) == before
    assert list(where.iterdir()) == []  # whatever a notebook writes it writes elsewhere
