"""The seconds and the memory of one way to answer for new scans, measured in the process that calls."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference_memory import PeakMemory
from benchmarks.inference_ways import AGAIN_SHARE, BASELINE, ENSEMBLE, OURS, STUDY, Tried, read_all
from benchmarks.ingest import pydicom_volume, tutorial_mask
from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.acquisition import UNKNOWN
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.ct.resize import resize_mask, resize_square
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.deliver.scan_page import key_evidence, write_scan_page
from cnr_iemn.engine import answers, prediction
from cnr_iemn.engine.ensembles import read_ensemble
from cnr_iemn.engine.prediction import OneScan
from cnr_iemn.files import sha256_of_file
from cnr_iemn.patients.booster import load_booster, mean_probabilities
from cnr_iemn.patients.contributions import contributions

Scans = Iterable[tuple[str, PreparedScan]]


@dataclass(frozen=True)
class Timed:
    """Seconds of one way on all scans. ``whole``: folders to answers; ``alone``: the networks on prepared slices.

    ``first``, ``first_alone``: of the first scan, read while no network runs; ``first_ms_a_slice``: the latter for each
    slice. ``page``: of one scan. Only of predict.py's fastest, 0 for others: ``alone`` and ``page``. ``gib``: peak
    memory, the reading process included. ``again``: of the slices, over all networks, the share that was asked twice.
    """

    start: float
    whole: float
    alone: float
    first: float
    first_alone: float
    first_ms_a_slice: float
    page: float
    gib: float
    again: float


def baseline_scans(found: list[tuple[str, Path]]) -> Iterator[tuple[str, PreparedScan]]:
    """Read with pydicom, make the tutorial's mask, window and resize, one scan after the other."""
    size = PixelSettings().size
    for scan_id, folder in found:
        hu = pydicom_volume(folder)
        grey = np.stack([resize_square(image, size, fill=0) for image in window_to_uint8(hu)])
        lungs = np.stack([resize_mask(inside.view(np.uint8), size) for inside in tutorial_mask(hu)]).astype(bool)
        facts = np.arange(len(hu), 0, -1.0), 0.0, (), False, ""
        yield scan_id, PreparedScan(grey, lungs, (1.0, 1.0, 1.0), *facts, UNKNOWN)


def measure(way: str, runs: Path, found: list[tuple[str, Path]]) -> Timed:
    """Measure one way in this process."""
    ensemble = read_ensemble(runs, STUDY, ENSEMBLE)
    booster_file = runs / STUDY / "ensembles" / ENSEMBLE / "booster.ubj"
    booster = load_booster(booster_file)
    prepared = read_all(found, ensemble.pixels)
    with PeakMemory(os.getpid()) as peak, tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        networks = Tried(runs / STUDY, ensemble, way, list(prepared.values()), share=AGAIN_SHARE)
        networks.slices(*next(iter(prepared.items())))
        start = time.perf_counter() - started
        answering = Answering(networks, booster, sha256_of_file(booster_file), Path(name))
        with ExitStack() as stack:
            read = baseline_scans(found)
            if way != BASELINE:  # the process that reads has started, as in predict.py while the networks are loaded
                twice = [("started", found[0][1]), *found]
                read = stack.enter_context(prediction.prepared_scans(twice, ensemble.pixels, {}))
                next(read)
            del networks.again[:]
            started = time.perf_counter()
            ends = answering.answer(read)
            again = sum(networks.again)
        (first_id, first), *others = prepared.items()
        first_alone = networks_alone(networks, first_id, first)
        alone = page = 0.0
        if way == OURS:
            alone = first_alone + sum(networks_alone(networks, *scan) for scan in others)
            page = answering.page(first_id, first)
    each = 1000 * first_alone / len(first.grey)
    asked = len(ensemble.members) * sum(len(scan.grey) for scan in prepared.values())
    return Timed(start, ends[-1] - started, alone, ends[0] - started, first_alone, each, page, peak.gib, again / asked)


class Answering:
    """What predict.py does once it has started. ``folder``: for what it writes."""

    def __init__(self, networks: Tried, booster: Any, booster_sha256: str, folder: Path) -> None:
        self._networks, self._booster, self._folder = networks, booster, folder
        self._origin = {"name": ENSEMBLE, "booster_sha256": booster_sha256}

    def answer(self, read: Scans) -> list[float]:
        """Answer for the scans and write the files; return when each was answered, the last when all was written."""
        scans, told, ends = [], [], []
        for scan_id, prepared in read:
            scans.append(self._networks.slices(scan_id, prepared))
            told += self._told(scans[-1:])[0]
            ends.append(time.perf_counter())
        ensemble = self._networks.ensemble
        kept = answers.new_scans(scans, ensemble, **self._origin, refused={})
        answers.write_answers(self._folder, ensemble, told, kept, engine=self._networks.engine)
        return [*ends[:-1], time.perf_counter()]

    def page(self, scan_id: str, prepared: PreparedScan) -> float:
        """Return the seconds that a scan's page takes, Grad-CAM included."""
        scan = self._networks.slices(scan_id, prepared)
        told, gone_by, one = self._told([scan])
        started = time.perf_counter()
        sets = one.sets[scan_id]
        seen = key_evidence(told[0], gone_by, sets, prepared, self._networks)
        write_scan_page(self._folder, told[0], gone_by, sets, prepared, self._networks.ensemble, seen)
        return time.perf_counter() - started

    def _told(self, scans: list[prediction.ScanSlices]) -> tuple[list[dict[str, Any]], Any, Any]:
        ensemble = self._networks.ensemble
        one = answers.new_scans(scans, ensemble, **self._origin, refused={})
        features = one.features()
        gone_by = contributions(self._booster, features, classes=ensemble.classes, models=ensemble.models)
        told = answers.scan_answers(scans, mean_probabilities(self._booster, features), gone_by, ensemble)
        return told, gone_by, one


def networks_alone(networks: Tried, scan_id: str, prepared: PreparedScan) -> float:
    """Return the seconds that all networks take for a scan whose slices lie ready in their input size."""
    seconds = 0.0
    for member in networks.ensemble.members:
        batches = list(networks.batches(member, OneScan(prepared), scan_id, len(prepared.grey)))
        started = time.perf_counter()
        networks.predict(member, batches)
        seconds += time.perf_counter() - started
    return seconds
