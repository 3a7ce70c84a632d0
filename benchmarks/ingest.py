"""Speed of ingest: prepare.py compared with common readers, on the same scans in one run.

python -m benchmarks.ingest data.root=/data/COVID-CT-MD --json ingest.json

Measures seconds per scan, without start-up, of (a) pydicom with the tutorial's mask as published, (b) SimpleITK's
series reader with the same mask, (c) prepare.py into the slice store, with all checks, on one core and on all cores,
and (d) the floor: imagecodecs decodes the pixels on all cores and does nothing else. They take turns in four rounds. In
a round the slow contenders read each scan once, the fast ones four times; the lung mask is timed alone, too. The table
shows medians and ranges over the rounds. Ratios are taken within a round, because the speed of a shared machine varies.
Needs the extra [bench].
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.common import make_parser, write_json
from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import THRESHOLD_HU, segment_lungs
from cnr_iemn.ct.volume import Volume
from cnr_iemn.data.build_store import prepare_one
from cnr_iemn.data.cohort import ScanRecord
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.utils.sandbox import run_limited

ROUNDS = 4
REPEATS = 4
"""Times that the fast contenders read each scan in a round."""
TUTORIAL = "pydicom + tutorial's mask"
ONE_CORE, ALL_CORES, FLOOR = "prepare.py, one core", "prepare.py, all cores", "floor, all cores"


@dataclass(frozen=True)
class JobTiming:
    """Time and memory of a job.

    Attributes:
        start: Time of the start, s, by a clock that all processes share; 0 for a warm-up.
        end: Time of the end, s.
        process: Process id.
        peak: Peak memory of the process, bytes.
    """

    start: float
    end: float
    process: int
    peak: int


def pydicom_and_tutorial(folder: Path) -> None:
    """Read with pydicom and make the tutorial's mask."""
    tutorial_mask(pydicom_volume(folder))


def pydicom_volume(folder: Path) -> NDArray[np.int16]:
    """Read the slices with pydicom, sort by position and rescale: HU, int16 [slices, rows, columns], head first."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    slices.sort(key=lambda ds: -float(ds.ImagePositionPatient[2]))
    hu = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    return np.asarray(hu, dtype=np.int16)


def simpleitk_and_tutorial(folder: Path) -> None:
    """Read the series with SimpleITK and make the tutorial's mask."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    tutorial_mask(SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.int16)[::-1])


def tutorial_mask(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return the mask of the tutorial (Zuidhof, Kaggle, 2017), step by step as published: 1 is air, 2 is solid.

    ``lungs=tutorial`` gives the same mask faster: it labels the air only and counts with a histogram.
    """
    from skimage.measure import label

    solid = (hu > THRESHOLD_HU).astype(np.int8) + 1
    labels = label(solid)
    solid[labels == labels[0, 0, 0]] = 2
    for image in solid:
        labels = label(image - 1)
        largest = _most_frequent(labels)
        if largest is not None:
            image[labels != largest] = 1
    air = 2 - solid
    labels = label(air)
    largest = _most_frequent(labels)
    return labels == largest if largest is not None else air.astype(bool)


def _most_frequent(labels: NDArray[np.integer]) -> int | None:
    values, counts = np.unique(labels, return_counts=True)
    return int(values[1:][counts[1:].argmax()]) if len(values) > 1 else None


def prepare_scan(root: Path, folder: Path) -> None:
    """Read, check, segment, window, resize and write one scan into a store, as prepare.py does."""
    with tempfile.TemporaryDirectory(dir=root) as store:
        error = prepare_one((Path(store), ScanRecord(folder.name, folder.name, folder, "Normal"), PixelSettings()))
    if error is not None:
        raise error


def decode_only(folder: Path) -> None:
    """Decode the JPEG Lossless stream of every file, without parsing the header."""
    for path in folder.iterdir():
        data = path.read_bytes()
        start = data.find(b"\xff\xd8\xff", data.rfind(b"\xe0\x7f\x10\x00"))
        imagecodecs.jpeg8_decode(data[start : data.rfind(b"\xff\xd9") + 2])


def _run_job(function: Callable[[Path], None], warm_up: Path, folder: Path | None) -> JobTiming:
    start = 0.0 if folder is None else time.monotonic()
    function(warm_up if folder is None else folder)
    return JobTiming(start, time.monotonic(), os.getpid(), peak_bytes())


def peak_bytes() -> int:
    """Return the peak memory of this process. getrusage would include that of its parent before the fork."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def seconds_per_scan(function: Callable[[Path], None], folders: list[Path], *, workers: int) -> tuple[float, float]:
    """Run a reader on all folders in worker processes, each after a warm-up.

    Returns:
        Wall-clock seconds per scan, and the sum of the processes' peak memory in GB.
    """
    jobs: list[Path | None] = [None] * workers + list(folders)
    timings = []
    for _, timing in run_limited(partial(_run_job, function, folders[0]), jobs, workers=workers, memory_bytes=2**35):
        if isinstance(timing, Exception):
            raise timing
        timings.append(timing)
    scans = [timing for timing in timings if timing.start]
    peaks = {timing.process: timing.peak for timing in sorted(timings, key=lambda timing: timing.peak)}
    seconds = max(timing.end for timing in scans) - min(timing.start for timing in scans)
    return seconds / len(scans), sum(peaks.values()) / 1e9


def single_process_seconds(function: Callable[[Path], None], folders: list[Path]) -> tuple[float, float]:
    """Do the same in one plain Python process, without the settings of the limited workers."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        timings = [pool.submit(_run_job, function, folders[0], folder).result() for folder in (None, *folders)]
    return (timings[-1].end - timings[1].start) / len(folders), timings[-1].peak / 1e9


def mask_ms_per_slice(volumes: list[Volume]) -> float:
    """Return the milliseconds per slice of the lung mask, on one core."""
    start = time.monotonic()
    for volume in volumes:
        segment_lungs(volume.hu, volume.spacing_mm)
    return 1000 * (time.monotonic() - start) / sum(len(volume.hu) for volume in volumes)


def divide(numerators: list[float], denominators: list[float]) -> list[float]:
    """Return the ratio of each round."""
    return [value / other for value, other in zip(numerators, denominators, strict=True)]


def format_range(values: list[float], digits: int) -> str:
    """Return the median and the range as text."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def default_plugin(folder: Path) -> str:
    """Return the decoder plugin that pydicom selects for these files."""
    import pydicom
    from pydicom.pixels import get_decoder

    ds = pydicom.dcmread(next(iter(sorted(folder.iterdir()))), stop_before_pixels=True)
    return get_decoder(ds.file_meta.TransferSyntaxUID).available_plugins[0]


def take_turns(scans: list[Path], cores: int) -> tuple[list[dict[str, tuple[float, float]]], list[float]]:
    """Return, for each round, seconds per scan and GB of each contender, and milliseconds per slice of the mask."""
    with tempfile.TemporaryDirectory() as temporary:
        links = [Path(temporary) / f"{scan.name}-{k}" for k in range(REPEATS) for scan in scans]
        for k, link in enumerate(links):
            os.symlink(scans[k % len(scans)].resolve(), link, target_is_directory=True)
        store = Path(temporary) / "store"
        store.mkdir()
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            FLOOR: lambda: seconds_per_scan(decode_only, links, workers=cores),
            ALL_CORES: lambda: seconds_per_scan(partial(prepare_scan, store), links, workers=cores),
            ONE_CORE: lambda: seconds_per_scan(partial(prepare_scan, store), links, workers=1),
            "SimpleITK + tutorial's mask": lambda: single_process_seconds(simpleitk_and_tutorial, scans),
            TUTORIAL: lambda: single_process_seconds(pydicom_and_tutorial, scans),
        }
        volumes = [read_scan(folder) for folder in scans]
        mask_ms_per_slice(volumes[:1])  # a warm-up
        rounds, mask_ms = [], []
        for _ in track(range(ROUNDS), "rounds"):
            rounds.append({name: run() for name, run in contenders.items()})
            mask_ms.append(mask_ms_per_slice(volumes))
    return rounds, mask_ms


def main() -> None:
    """Print the table and, with --json, write it."""
    from cnr_iemn.stage1.training.hardware import (
        usable_cores,  # not at the top: workers import this module, and would load torch
    )

    parser = make_parser(__doc__)
    parser.add_argument("root", metavar="data.root=FOLDER", help="folder of the scans")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    root = Path(options.root.removeprefix("data.root="))
    scans = [path for _, path in find_scans(root)]
    cores = usable_cores()
    rounds, mask_ms = take_turns(scans, cores)
    seconds = {name: [results[name][0] for results in rounds] for name in rounds[0]}
    peak_gb = {name: max(results[name][1] for results in rounds) for name in rounds[0]}
    ratios = {
        "all_cores_vs_tutorial": divide(seconds[TUTORIAL], seconds[ALL_CORES]),
        "one_core_vs_tutorial": divide(seconds[TUTORIAL], seconds[ONE_CORE]),
        "all_cores_vs_floor": divide(seconds[ALL_CORES], seconds[FLOOR]),
        "mask_ms_per_slice": mask_ms,
    }
    title = f"{len(scans)} scans, {cores} cores, medians of {ROUNDS} rounds and their range"
    table = Table("", "seconds per scan", "speedup over (a)", "peak memory, GB", title=title)
    for name, values in seconds.items():
        speedup = format_range(divide(seconds[TUTORIAL], values), 1)
        table.add_row(name, format_range(values, 3), speedup, f"{peak_gb[name]:.2f}")
    Console(width=120).print(table)
    plugin = default_plugin(scans[0])
    print(f"pydicom's decoder plugin: {plugin}")
    print(f"prepare.py on all cores / floor: {format_range(ratios['all_cores_vs_floor'], 2)}")
    print(f"lung mask: {format_range(ratios['mask_ms_per_slice'], 2)} ms per slice on one core")
    result = {
        "seconds_per_scan": {name: median(values) for name, values in seconds.items()},
        "ratios": {name: median(values) for name, values in ratios.items()},
        "rounds": {"seconds_per_scan": seconds, "ratios": ratios},
        "peak_gb": peak_gb,
        "plugin": plugin,
        "cores": cores,
        "scans": len(scans),
    }
    write_json(options.json, result)


if __name__ == "__main__":
    main()
