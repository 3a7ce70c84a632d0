"""Codes of refusals: each is documented, raised somewhere, and survives the way out of a limited process."""

import ast
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from cnr_iemn.ct.io.dicom_file import UnreadableFileError
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import RefusalCode, ScanError, fault
from cnr_iemn.utils.sandbox import run_limited
from tests.ct.conftest import make_slices, write
from tests.pipeline import ROOT

PAGE = ROOT / "docs" / "reference" / "refusals.md"


def test_the_page_lists_every_code_once_and_no_other() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert Counter(listed) == Counter(RefusalCode)


def test_every_code_is_raised_somewhere() -> None:
    used: set[str] = set()
    for path in (ROOT / "cnr_iemn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "RefusalCode":
                used.add(node.attr)
    assert used == set(RefusalCode.__members__)


@pytest.mark.parametrize("kind", [ScanError, UnreadableFileError])
def test_code_and_reason_survive_a_pickle(kind: type[ScanError]) -> None:
    error = pickle.loads(pickle.dumps(kind(RefusalCode.NOT_AXIAL, "P1: lies")))
    assert type(error) is kind
    assert (error.code, error.reason, str(error)) == (RefusalCode.NOT_AXIAL, "P1: lies", "P1: lies")


def test_a_fault_of_the_program_has_its_code() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert fault("P1", caught.value).code is RefusalCode.PROGRAM_FAULT


def test_a_refusal_keeps_its_code_across_processes(tmp_path: Path) -> None:
    folder = tmp_path / "P1"
    write(folder, make_slices()[:1])
    ((_, error),) = run_limited(read_scan, [folder], workers=1)
    assert isinstance(error, ScanError)
    assert error.code is RefusalCode.MISSING_SLICES
