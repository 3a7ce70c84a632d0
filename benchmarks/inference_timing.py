"""Seconds and memory of one inference engine, measured in the calling process."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.inference_engines import (
    BASELINE,
    ENSEMBLE,
    FASTEST,
    RECHECK_SHARE,
    STUDY,
    BenchmarkNetworks,
    prepare_all,
)
from benchmarks.inference_memory import PeakMemory
from benchmarks.ingest import pydicom_volume, tutorial_mask
from cnr_iemn.ct.io.acquisition import UNKNOWN
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.ct.resize import resize_mask, resize_square
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.inference.answers import AnswerFolder
from cnr_iemn.inference.networks import InMemoryScan
from cnr_iemn.inference.prediction_files import join_answers
from cnr_iemn.inference.prediction_writer import PredictionWriter
from cnr_iemn.inference.predictor import Predictor
from cnr_iemn.report.scan_report import ScanPages
from cnr_iemn.stage2.ensemble import load_study_ensemble

PreparedScans = Iterable[tuple[str, PreparedScan]]


@dataclass(frozen=True)
class Timing:
    """Seconds and memory of one engine on all scans.

    Attributes:
        start: Weights, conversion and a first scan, s.
        total: DICOM folders to predictions, s.
        networks: The networks on prepared slices, s; 0 except for the fastest engine.
        first_scan: The first scan, which is read while no network runs, s.
        first_networks: The networks on the first scan, s.
        ms_per_slice: The same for each slice, ms.
        page: The page of one scan, s; 0 except for the fastest engine.
        gib: Peak memory, including the process that reads.
        recheck_share: Share of slices that were recomputed in float32, over all networks, 0 to 1.
    """

    start: float
    total: float
    networks: float
    first_scan: float
    first_networks: float
    ms_per_slice: float
    page: float
    gib: float
    recheck_share: float


def baseline_scans(scans: list[tuple[str, Path]]) -> Iterator[tuple[str, PreparedScan]]:
    """Yield scans read with pydicom, with the tutorial's mask, windowed and resized, one after the other."""
    size = PixelSettings().size
    for scan_id, folder in scans:
        hu = pydicom_volume(folder)
        grey = np.stack([resize_square(image, size, fill=0) for image in window_to_uint8(hu)])
        lungs = np.stack([resize_mask(mask.view(np.uint8), size) for mask in tutorial_mask(hu)]).astype(bool)
        z_mm = np.arange(len(hu), 0, -1.0)
        yield scan_id, PreparedScan(grey, lungs, (1.0, 1.0, 1.0), z_mm, 0.0, (), False, "", UNKNOWN)


def measure(engine: str, runs: Path, scans: list[tuple[str, Path]]) -> Timing:
    """Measure one engine in this process."""
    study = load_study_ensemble(runs, STUDY, ENSEMBLE)
    ensemble = study.ensemble
    prepared = prepare_all(scans, ensemble.pixels)
    with PeakMemory(os.getpid()) as peak, tempfile.TemporaryDirectory() as name:
        start_time = time.perf_counter()
        networks = BenchmarkNetworks(
            runs / STUDY, ensemble, engine, list(prepared.values()), recheck_share=RECHECK_SHARE
        )
        networks.predict_scan(next(iter(prepared.values())))
        start = time.perf_counter() - start_time
        predictor = Predictor(study, networks.hardware, read_options=ensemble.pixels.read_options, engine="torch")
        predictor.networks = networks
        with ExitStack() as stack:
            source: PreparedScans = baseline_scans(scans)
            if engine != BASELINE:  # start the process that reads, as predict.py does while it loads the networks
                inputs = [("warm-up", scans[0][1]), *scans]
                reader = stack.enter_context(closing(predictor.prepare(inputs)))
                next(reader)
                source = ((inputs[index][0], scan) for index, scan in reader if isinstance(scan, PreparedScan))
            networks.recheck_counts.clear()
            start_time = time.perf_counter()
            end_times = predict_all(predictor, source, Path(name), n_scans=len(scans))
            n_rechecks = sum(networks.recheck_counts)
        first, *rest = prepared.values()
        first_networks = network_seconds(networks, first)
        all_networks = page = 0.0
        if engine == FASTEST:
            all_networks = first_networks + sum(network_seconds(networks, scan) for scan in rest)
            page = page_seconds(predictor, first, Path(name))
    return Timing(
        start=start,
        total=end_times[-1] - start_time,
        networks=all_networks,
        first_scan=end_times[0] - start_time,
        first_networks=first_networks,
        ms_per_slice=1000 * first_networks / len(first.grey),
        page=page,
        gib=peak.gib,
        recheck_share=n_rechecks / (len(ensemble.members) * sum(len(scan.grey) for scan in prepared.values())),
    )


def predict_all(predictor: Predictor, scans: PreparedScans, folder: Path, *, n_scans: int) -> list[float]:
    """Predict the scans and write the files without pages.

    Returns:
        The time when each scan was predicted; the last one is the time when all files were written.
    """
    times, scan_ids = [], []
    predictor.explanations = False
    answers = AnswerFolder(folder, "")
    with PredictionWriter(answers, predictor, n_scans=n_scans, n_pending=n_scans) as writer:
        for scan_id, prepared in scans:
            writer.add(predictor.predict_scan(scan_id, folder, prepared))
            times.append(time.perf_counter())
            scan_ids.append(scan_id)
    join_answers(answers, scan_ids, predictor.loaded)
    return [*times[:-1], time.perf_counter()]


def page_seconds(predictor: Predictor, prepared: PreparedScan, folder: Path) -> float:
    """Return the seconds that the page of a scan takes, Grad-CAM included."""
    seconds, pages = [], ScanPages(folder, predictor.ensemble)
    for explanations in (False, True):
        predictor.explanations = explanations
        start_time = time.perf_counter()
        result = predictor.predict_scan("scan", folder, prepared)
        if explanations:
            pages.add(result)
        seconds.append(time.perf_counter() - start_time)
    return seconds[1] - seconds[0]


def network_seconds(networks: BenchmarkNetworks, prepared: PreparedScan) -> float:
    """Return the seconds that all networks take for a scan whose batches are ready in memory."""
    seconds, source = 0.0, InMemoryScan(prepared.grey, prepared.lungs)
    for member in networks.ensemble.members:
        batches = list(networks.batches(member, source, "scan", len(prepared.grey)))
        start_time = time.perf_counter()
        networks.predict(member, batches)
        seconds += time.perf_counter() - start_time
    return seconds
