"""Whatever the order, names, folders and copies of a scan's files: the store holds the same bytes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings
from tests.ct.conftest import make_slices, stored, write

N = 8
SETTINGS = PixelSettings(size=32)
BEGINNINGS = ("IM", "", "é'", '"', "; rm $(x) ", "-rf ", "%d{}", "*?[!", "\\n", ".", " ", "影像")
SUFFIXES = (".dcm", "", ".DCM", ".Ima", ".840.113", ". ", ".nii.dcm")
FOLDERS = ("", "a", "b/c", "É; '$'", "a/a/a")
OF_THE_FILES_ONLY = ("file(s) with position and pixels of another one dropped", "slices from ")


@dataclass(frozen=True)
class Layout:
    """Where slice k goes: name ``beginnings[k] + numbers[k] + suffixes[k]`` in ``folders[k]``; and which has a copy."""

    numbers: Sequence[int]
    beginnings: Sequence[str]
    suffixes: Sequence[str]
    folders: Sequence[str]
    copied: frozenset[int]

    def move(self, source: Path, root: Path) -> None:
        for k, path in enumerate(sorted(source.iterdir())):
            folder = root / self.folders[k]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{self.beginnings[k]}{self.numbers[k]}{self.suffixes[k]}"
            shutil.copy(path, folder / name)
            if k in self.copied:
                shutil.copy(path, folder / f"copy of {name}")


def _each(values: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=N, max_size=N)


LAYOUTS = st.builds(
    Layout,
    st.permutations(range(N)),
    _each(BEGINNINGS),
    _each(SUFFIXES),
    _each(FOLDERS),
    st.frozensets(st.integers(0, N - 1), max_size=4),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan with two lungs in the tissue, written in order."""
    slices = make_slices(N)
    for ds in slices:
        pixels = stored(ds).copy()
        pixels[20:40, 20:30] = pixels[20:40, 34:44] = 150
        ds.PixelData, ds.PixelSpacing = pixels.tobytes(), [5, 5]
    return write(tmp_path_factory.mktemp("source") / "P012", slices)


def _stored(scan: Path, cache: Path) -> tuple[bytes, bytes, str, list[str]]:
    """Prepare one scan; return grey.npy, lungs.npy, scan.json without its findings, and these."""
    cohort = Cohort("one", scan.parent, SPGC_CLASSES, (ScanRecord("P012", "P012", scan, "CAP"),))
    store, failures = prepare_store(cohort, SETTINGS, cache=cache)
    assert failures == {}
    folder = store.root / "P012"
    values = json.loads((folder / "scan.json").read_text())
    findings = values.pop("findings")
    return (folder / "grey.npy").read_bytes(), (folder / "lungs.npy").read_bytes(), json.dumps(values), findings


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, str, list[str]]:
    answer = _stored(source, tmp_path_factory.mktemp("cache"))
    assert np.frombuffer(answer[1], np.uint8)[128:].any()  # lungs were found, or a lost mask would not be seen
    return answer


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@example(layout=Layout(range(N)[::-1], ["é ; $(x) '"] * N, [""] * N, FOLDERS[:2] * 4, frozenset({0, N - 1})))
@given(layout=LAYOUTS)
def test_layout_changes_no_byte(layout: Layout, source: Path, expected: tuple[bytes, bytes, str, list[str]]) -> None:
    with TemporaryDirectory() as temporary:
        scan = Path(temporary) / "P012"
        layout.move(source, scan)
        *found, findings = _stored(scan, Path(temporary) / "cache")
    *wanted, wanted_findings = expected
    assert found == wanted
    assert [text for text in findings if not any(part in text for part in OF_THE_FILES_ONLY)] == wanted_findings
    dropped = [text for text in findings if OF_THE_FILES_ONLY[0] in text]
    n = len(layout.copied)
    assert dropped == ([f"{n} {OF_THE_FILES_ONLY[0]}"] if n else [])
