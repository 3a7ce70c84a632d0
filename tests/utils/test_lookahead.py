"""Looks at several scans at once, in order, and on no more than are asked for."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnr_iemn.ct.io import discovery, folders
from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.image_stack import image_files
from cnr_iemn.ct.source_signature import source_signature
from cnr_iemn.data import build_store
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.inference.answers import FOLDER, Answer, AnswerFolder
from cnr_iemn.inference.input_checks import Source
from cnr_iemn.inference.sources import path_list
from cnr_iemn.utils.lookahead import LOOKS, map_ahead

N_SCANS = 2 * LOOKS


class Together:
    """Lets nobody pass before LOOKS callers are there: one who looks alone waits in vain, and ends the test."""

    def __init__(self) -> None:
        self.n_calls = 0
        self._barrier = threading.Barrier(LOOKS)

    def wait(self) -> None:
        self._barrier.wait(timeout=60)
        self.n_calls += 1


def test_results_come_in_order_and_looks_are_made_together() -> None:
    together = Together()

    def look(item: int) -> int:
        together.wait()
        return -item

    assert list(map_ahead(look, range(4 * LOOKS))) == [-item for item in range(4 * LOOKS)]
    assert list(map_ahead(look, [])) == []


def test_items_are_taken_as_results_are() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_ahead(str, items())
    for k in range(100):
        assert next(results) == str(k)
        assert len(taken) == k + LOOKS + 1
    results.close()
    assert len(taken) == 100 + LOOKS


def test_an_error_comes_in_its_place_and_ends_the_looks() -> None:
    seen: list[int] = []

    def look(item: int) -> int:
        seen.append(item)
        return 1 // (item - 3)

    results = map_ahead(look, range(1000))
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not list(results)
    assert len(seen) <= 3 + LOOKS


@pytest.fixture
def scans(tmp_path: Path) -> list[tuple[str, Source]]:
    """Folders of one file each."""
    for k in range(N_SCANS):
        (tmp_path / "in" / f"P{k}").mkdir(parents=True)
        (tmp_path / "in" / f"P{k}" / "1.dcm").touch()
    return [(f"P{k}", tmp_path / "in" / f"P{k}") for k in range(N_SCANS)]


def test_predict_looks_at_scans_together(scans: list[tuple[str, Source]], tmp_path: Path) -> None:
    """Whether answers are up to date, and what the files are before they are read: in the order of the scans."""
    plain = AnswerFolder(tmp_path / "out", "request")
    for scan_id, _ in plain.jobs(scans):
        plain.write(Answer(scan_id, "torch", prediction=None, refused="no lungs"))
    (tmp_path / "in" / "P3" / "1.dcm").write_bytes(b"x")
    (tmp_path / "out" / FOLDER / "P7.safetensors").unlink()
    together = Together()

    def signature(source: Source) -> str:
        together.wait()
        return source_signature(source)

    answers = AnswerFolder(tmp_path / "out", "request", signature=signature)
    del scans[7]  # so that the looks are a multiple of those made at once
    more = [("P7", tmp_path / "in" / "P7")]
    assert answers.pending([*scans, scans[0]], redo="changed") == [scans[3]]
    assert together.n_calls == N_SCANS
    assert plain.pending([*scans, *more], redo="changed") == [scans[3], *more]
    assert list(answers.jobs([*scans, *more])) == [*scans, *more]
    assert together.n_calls == 2 * N_SCANS


def test_sources_are_looked_at_no_further_ahead_than_that(scans: list[tuple[str, Source]], tmp_path: Path) -> None:
    seen: list[Source] = []

    def signature(source: Source) -> str:
        seen.append(source)
        return ""

    jobs = AnswerFolder(tmp_path / "out", "request", signature=signature).jobs(scans)
    assert next(jobs) == scans[0]
    assert len(seen) <= LOOKS + 1


def test_scans_are_found_together(
    scans: list[tuple[str, Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, heading, plain = Together(), Together(), folders._list_folder

    def list_folder(folder: Path) -> object:
        if folder != tmp_path / "in":
            listing.wait()
        return plain(folder)

    def series_in(folder: tuple[Path, list[str]]) -> str | None:
        if not folder[1]:
            return None
        heading.wait()
        return folder[0].name

    monkeypatch.setattr(folders, "_list_folder", list_folder)
    monkeypatch.setattr(discovery, "_series_in", series_in)
    assert find_scans(tmp_path / "in") == scans
    assert (listing.n_calls, heading.n_calls) == (N_SCANS, N_SCANS)


def test_a_list_is_looked_at_together(
    scans: list[tuple[str, Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Together()

    def look(folder: Path) -> object:
        together.wait()
        return image_files(folder)

    monkeypatch.setattr(path_list, "image_files", look)
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for _, path in scans))
    assert path_list.read_paths(tmp_path / "list.txt") == scans
    assert together.n_calls == N_SCANS


def test_prepare_looks_at_scans_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Together()

    def is_current(*_: object) -> bool:
        together.wait()
        return True

    monkeypatch.setattr(build_store, "_is_current", is_current)
    scans = tuple(ScanRecord(f"P{k}", f"P{k}", tmp_path / f"P{k}", "a") for k in range(N_SCANS))
    _, failures = prepare_store(Cohort("x", tmp_path, ("a", "b"), scans), PixelSettings(size=64), cache=tmp_path)
    assert not failures
    assert together.n_calls == N_SCANS
