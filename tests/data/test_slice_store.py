"""The slice store: made once, resumed, the same for renamed, shuffled and recoded files, whole scans only."""

import errno
import json
import os
import shutil
from multiprocessing import get_context
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.preprocess import prepare_scan
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import StoreError
from cnr_iemn.phantom.cohort_writer import write_cohort

pytestmark = pytest.mark.slow

SETTINGS = PixelSettings(size=48)
FILES = ("grey.npy", "lungs.npy", "scan.json")


@pytest.fixture(scope="session")
def phantom_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of 64 x 64 pixels, one of each class."""
    root = tmp_path_factory.mktemp("phantom") / "tree"
    write_cohort(root, scans=dict.fromkeys(SPGC_CLASSES, 1), labelled={}, seed=3, rows=64, n_slices=(20, 22))
    return root


@pytest.fixture
def cohort(phantom_scans: Path, tmp_path: Path) -> Cohort:
    """The scans in a folder that the test may change."""
    scans = []
    for source in sorted(phantom_scans.glob("* subjects/*")):
        shutil.copytree(source, tmp_path / "scans" / source.name)
        scans.append(ScanRecord(source.name, source.name, tmp_path / "scans" / source.name, "CAP"))
    return Cohort("three", tmp_path / "scans", SPGC_CLASSES, tuple(scans))


def files(store: SliceStore) -> dict[str, bytes]:
    return {
        path.relative_to(store.root).as_posix(): path.read_bytes()
        for path in sorted(store.root.rglob("*"))
        if path.name in FILES
    }


def test_the_store_holds_what_the_scan_gives(cohort: Cohort, tmp_path: Path) -> None:
    store, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert failures == {}
    for scan in cohort.scans:
        prepared = prepare_scan(scan.path, size=48)
        assert np.array_equal(store.grey(scan.scan_id), prepared.grey)
        assert np.array_equal(store.lungs(scan.scan_id)[:], prepared.lungs)
        stored = store.scan(scan.scan_id)
        assert stored.n_slices == len(prepared.grey)
        assert stored.phantom
        assert stored.lung_litres == pytest.approx(prepared.lung_litres)
        assert isinstance(store.grey(scan.scan_id), np.memmap)


def test_a_second_run_does_nothing_and_one_more_scan_costs_one_scan(cohort: Cohort, tmp_path: Path) -> None:
    prepared: list[str] = []

    def watch(done, total):
        for scan_id in done:
            prepared.append(scan_id)
            yield scan_id

    fewer = Cohort(cohort.name, cohort.root, cohort.classes, cohort.scans[:2])
    for each in (fewer, fewer, cohort):
        prepare_store(each, SETTINGS, cache=tmp_path / "cache", progress=watch)
    assert prepared == [scan.scan_id for scan in cohort.scans]


def test_two_workers_make_the_same_bytes_as_one(cohort: Cohort, tmp_path: Path) -> None:
    one, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "one", workers=1)
    two, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "two", workers=2)
    assert files(one) == files(two)


def test_renamed_shuffled_and_recoded_files_give_the_same_bytes(cohort: Cohort, tmp_path: Path) -> None:
    before, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "before")
    rng = np.random.default_rng(0)
    for scan in cohort.scans:
        paths = sorted(scan.path.iterdir())
        for path, number in zip(paths, rng.permutation(len(paths)), strict=True):
            dataset = pydicom.dcmread(path)
            (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
            dataset.PixelData = imagecodecs.jpeg8_decode(frame).astype("<u2").tobytes()
            dataset["PixelData"].is_undefined_length = False
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path.unlink()
            dataset.save_as(scan.path / f"slice_{number}")
    after, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "after")
    assert failures == {}
    assert files(before) == files(after)


def test_a_changed_source_is_prepared_again_and_an_interrupted_one_too(cohort: Cohort, tmp_path: Path) -> None:
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    complete = files(store)
    first, second, _ = cohort.scans
    shutil.rmtree(store.root / first.scan_id)
    (store.root / f".{first.scan_id}.abc.part").mkdir()  # what a killed process leaves
    (store.root / f".{first.scan_id}.abc.part" / "grey.npy").write_bytes(b"half")
    min(second.path.iterdir()).touch()
    again, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert files(again) == complete
    assert not list(store.root.glob(".*.part"))
    assert not list(store.root.glob(".*.gone"))


def test_a_full_disk_is_reported_and_leaves_nothing(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = np.save, []

    def full(path: Path, *args: object, **kwargs: object) -> None:
        calls.append(path)
        if len(calls) == 4:  # the mask of the second scan
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *args, **kwargs)

    monkeypatch.setattr("cnr_iemn.data.build_store.np.save", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)\. Free some space"):
        prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    store = SliceStore.locate(cohort, SETTINGS, cache=tmp_path / "cache")
    there = [path.name for path in store.root.iterdir() if path.is_dir()]
    assert there == [cohort.scans[0].scan_id]


def test_two_processes_at_once_wait_for_each_other(cohort: Cohort, tmp_path: Path) -> None:
    alone, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "alone")
    context = get_context("spawn")
    both = [context.Process(target=prepare_store, args=(cohort, SETTINGS), kwargs={"cache": tmp_path / "cache"})
            for _ in range(2)]  # fmt: skip
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert files(SliceStore.locate(cohort, SETTINGS, cache=tmp_path / "cache")) == files(alone)


def test_a_refused_scan_is_named_and_stops_no_other(cohort: Cohort, tmp_path: Path) -> None:
    bad = cohort.scans[1]
    victim = sorted(bad.path.iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:-300])
    store, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache", workers=2)
    assert list(failures) == [bad.scan_id]
    assert victim.name in str(failures[bad.scan_id])
    assert not (store.root / bad.scan_id).exists()
    assert store.scan(cohort.scans[2].scan_id).n_slices > 0
    with pytest.raises(StoreError, match=f"lacks scan {bad.scan_id}"):
        store.scan(bad.scan_id)


def test_the_fingerprint_covers_every_setting() -> None:
    variants = [
        PixelSettings(),
        PixelSettings(size=224),
        PixelSettings(lungs="tutorial"),
        PixelSettings(crop="lungs"),
        PixelSettings(window=(-900, 400)),
    ]
    assert len({settings.fingerprint() for settings in variants}) == len(variants)
    assert PixelSettings(window=(-1000, 400)).fingerprint() == PixelSettings(window=(-1000.0, 400.0)).fingerprint()


def test_a_store_of_another_version_or_cut_short_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    scan_id = cohort.scans[0].scan_id
    np.save(store.root / scan_id / "grey.npy", np.zeros((3, 48, 48), dtype=np.uint8))
    with pytest.raises(StoreError, match=r"scan\.json says uint8"):
        store.grey(scan_id)
    path = store.root / scan_id / "scan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(StoreError, match="schema_version 99"):
        SliceStore(store.root, SETTINGS).scan(scan_id)


def test_files_that_arrive_while_a_scan_is_read_refuse_it(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cohort.scans[0]
    late = min(first.path.iterdir())

    def slow(source: Path, **settings: object) -> object:
        prepared = prepare_scan(source, **settings)
        if source == first.path:
            late.touch()
        return prepared

    monkeypatch.setattr("cnr_iemn.data.build_store.prepare_scan", slow)
    _, failures = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert list(failures) == [first.scan_id]
    assert "its files changed while they were read" in str(failures[first.scan_id])


def test_a_scan_is_on_the_disk_before_it_appears(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power failure leaves cannot be tested; that everything is synced before the rename can."""
    synced: set[int] = set()
    before_rename: list[set[int]] = []
    sync, rename = os.fsync, os.rename

    def watch_sync(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def watch_rename(source: Path, target: Path) -> None:
        before_rename.append({path.stat().st_ino for path in (source, *source.iterdir())} - synced)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watch_sync)
    monkeypatch.setattr("cnr_iemn.data.build_store.os.rename", watch_rename)
    prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert before_rename == [set()] * len(cohort.scans)


def test_a_cut_source_record_is_prepared_again(cohort: Cohort, tmp_path: Path) -> None:
    store, _ = prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    complete = files(store)
    (store.root / cohort.scans[0].scan_id / "source.json").write_text("")
    prepare_store(cohort, SETTINGS, cache=tmp_path / "cache")
    assert files(store) == complete


def test_a_cache_that_cannot_be_made(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be made or written .* Give another ingest\.cache"):
        prepare_store(cohort, SETTINGS, cache=tmp_path / "file")
