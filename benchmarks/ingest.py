"""How fast is ingest? Ours beside the usual ways, in one run on the same scans.

python -m benchmarks.ingest data.root=/data/COVID-CT-MD --json ingest.json

Seconds a scan, start-up excluded, of (a) pydicom and the tutorial's mask as the tutorial describes it, (b) SimpleITK's
series reader and the same mask, (c) ours into the slice store, checks included, on one core and on all, and the floor:
decoding with imagecodecs alone, on all cores. They take turns in four rounds, in each of which the slow ways read every
scan once and the fast ones four times, and the mask alone is made. Told are medians of the rounds and their range, of
ratios those within each round, for the speed of a shared machine changes from minute to minute. Needs [bench].
"""

import argparse
import json
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

from cnr_iemn.cohort.cohort import ScanRecord
from cnr_iemn.cohort.preparation import prepare_one
from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.find import find_scans
from cnr_iemn.ct.limited import run_limited
from cnr_iemn.ct.lungs import THRESHOLD_HU, segment_lungs
from cnr_iemn.ct.reader import read_scan
from cnr_iemn.ct.volume import Volume

ROUNDS = 4
TIMES = 4
"""How often the fast ways take each scan in a round."""
TUTORIAL = "pydicom + tutorial's mask"


@dataclass(frozen=True)
class Timed:
    """When a job ran, by a clock that all processes share (``start`` 0: a warm-up). ``peak``: memory of its process."""

    start: float
    end: float
    process: int
    peak: int


def pydicom_and_tutorial(folder: Path) -> None:
    """Read with pydicom and make the tutorial's mask."""
    tutorial_mask(pydicom_volume(folder))


def pydicom_volume(folder: Path) -> NDArray[np.int16]:
    """Read every file with pydicom, sort by position and rescale; return HU, int16 [n, rows, columns], head first."""
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
    """Make the tutorial's mask step by step as it is told (Zuidhof, Kaggle, 2017): 1 air, 2 solid, both labelled.

    lungs=tutorial gives the same mask sooner, since it labels the air alone and counts by bins.
    """
    from skimage.measure import label

    solid = (hu > THRESHOLD_HU).astype(np.int8) + 1
    parts = label(solid)
    solid[parts == parts[0, 0, 0]] = 2
    for image in solid:
        parts = label(image - 1)
        largest = _most_frequent(parts)
        if largest is not None:
            image[parts != largest] = 1
    air = 2 - solid
    parts = label(air)
    largest = _most_frequent(parts)
    return parts == largest if largest is not None else air.astype(bool)


def _most_frequent(labels: NDArray[np.integer]) -> int | None:
    values, counts = np.unique(labels, return_counts=True)
    return int(values[1:][counts[1:].argmax()]) if len(values) > 1 else None


def ours(root: Path, folder: Path) -> None:
    """Read, check, segment, window, resize and write one scan into a store, as prepare.py does."""
    with tempfile.TemporaryDirectory(dir=root) as store:
        refused = prepare_one((Path(store), ScanRecord(folder.name, folder.name, folder, "Normal"), PixelSettings()))
    if refused is not None:
        raise refused


def decode_only(folder: Path) -> None:
    """Decode the JPEG Lossless stream of every file, found by its markers, and do nothing else."""
    for path in folder.iterdir():
        data = path.read_bytes()
        start = data.find(b"\xff\xd8\xff", data.rfind(b"\xe0\x7f\x10\x00"))
        imagecodecs.jpeg8_decode(data[start : data.rfind(b"\xff\xd9") + 2])


def _timed(function: Callable[[Path], None], warm_up: Path, folder: Path | None) -> Timed:
    start = 0.0 if folder is None else time.monotonic()
    function(warm_up if folder is None else folder)
    return Timed(start, time.monotonic(), os.getpid(), peak_bytes())


def peak_bytes() -> int:
    """Return the most memory that this process has had; getrusage would count its parent's at its start as well."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def seconds_per_scan(function: Callable[[Path], None], folders: list[Path], *, workers: int) -> tuple[float, float]:
    """Run over all folders in so many processes, each warmed up on a scan; return wall seconds a scan and GB in all."""
    jobs: list[Path | None] = [None] * workers + list(folders)
    times = []
    for _, answer in run_limited(partial(_timed, function, folders[0]), jobs, workers=workers, memory_bytes=2**35):
        if isinstance(answer, Exception):
            raise answer
        times.append(answer)
    measured = [timed for timed in times if timed.start]
    peaks = {timed.process: timed.peak for timed in sorted(times, key=lambda timed: timed.peak)}
    return (max(t.end for t in measured) - min(t.start for t in measured)) / len(measured), sum(peaks.values()) / 1e9


def plain_seconds_per_scan(function: Callable[[Path], None], folders: list[Path]) -> tuple[float, float]:
    """Do the same in one process as Python starts it, as a tutorial's readers do: without our workers' settings."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        times = [pool.submit(_timed, function, folders[0], folder).result() for folder in (None, *folders)]
    return (times[-1].end - times[1].start) / len(folders), times[-1].peak / 1e9


def mask_ms_per_slice(volumes: list[Volume]) -> float:
    """Return milliseconds a slice of the lung mask alone, on one core."""
    start = time.monotonic()
    for volume in volumes:
        segment_lungs(volume.hu, volume.spacing_mm)
    return 1000 * (time.monotonic() - start) / sum(len(volume.hu) for volume in volumes)


def quotients(values: list[float], others: list[float]) -> list[float]:
    """Return those of each round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def told(values: list[float], digits: int) -> str:
    """Return the median and the range."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def default_plugin(folder: Path) -> str:
    """Return the decoder that pydicom takes by itself for these files."""
    import pydicom
    from pydicom.pixels import get_decoder

    ds = pydicom.dcmread(next(iter(sorted(folder.iterdir()))), stop_before_pixels=True)
    return get_decoder(ds.file_meta.TransferSyntaxUID).available_plugins[0]


def take_turns(scans: list[Path], cores: int) -> tuple[list[dict[str, tuple[float, float]]], list[float]]:
    """Return seconds a scan and GB of each way, and milliseconds a slice of the mask, for each round."""
    with tempfile.TemporaryDirectory() as temporary:
        linked = [Path(temporary) / f"{scan.name}-{k}" for k in range(TIMES) for scan in scans]
        for k, link in enumerate(linked):
            os.symlink(scans[k % len(scans)].resolve(), link, target_is_directory=True)
        store = Path(temporary) / "store"
        store.mkdir()
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "floor, all cores": lambda: seconds_per_scan(decode_only, linked, workers=cores),
            "ours, all cores": lambda: seconds_per_scan(partial(ours, store), linked, workers=cores),
            "ours, one core": lambda: seconds_per_scan(partial(ours, store), linked, workers=1),
            "SimpleITK + tutorial's mask": lambda: plain_seconds_per_scan(simpleitk_and_tutorial, scans),
            TUTORIAL: lambda: plain_seconds_per_scan(pydicom_and_tutorial, scans),
        }
        volumes = [read_scan(folder) for folder in scans]
        mask_ms_per_slice(volumes[:1])  # loops are compiled
        rounds, mask_ms = [], []
        for _ in track(range(ROUNDS), "rounds"):
            rounds.append({name: way() for name, way in ways.items()})
            mask_ms.append(mask_ms_per_slice(volumes))
    return rounds, mask_ms


def main() -> None:
    """Print the table and, with --json, write it."""
    from cnr_iemn.engine.hardware import usable_cores  # not above: workers import this module, and would load torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="data.root=FOLDER with the scans")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    root = Path(words.root.removeprefix("data.root="))
    scans = [path for _, path in find_scans(root)]
    cores = usable_cores()
    rounds, mask_ms = take_turns(scans, cores)
    ways = rounds[0]
    seconds = {name: [measured[name][0] for measured in rounds] for name in ways}
    peak_gb = {name: max(measured[name][1] for measured in rounds) for name in ways}
    ratios = {
        "two_cores_vs_tutorial": quotients(seconds[TUTORIAL], seconds["ours, all cores"]),
        "one_core_vs_tutorial": quotients(seconds[TUTORIAL], seconds["ours, one core"]),
        "two_cores_vs_floor": quotients(seconds["ours, all cores"], seconds["floor, all cores"]),
        "mask_ms_per_slice": mask_ms,
    }
    title = f"{len(scans)} scans, {cores} cores, medians of {ROUNDS} rounds and their range"
    table = Table("", "seconds a scan", "times (a)", "peak memory, GB", title=title)
    for name, values in seconds.items():
        table.add_row(name, told(values, 3), told(quotients(seconds[TUTORIAL], values), 1), f"{peak_gb[name]:.2f}")
    Console(width=120).print(table)
    plugin = default_plugin(scans[0])
    print(f"plugin of pydicom: {plugin}; ours on all cores / floor: {told(ratios['two_cores_vs_floor'], 2)}; ", end="")
    print(f"mask alone {told(ratios['mask_ms_per_slice'], 2)} ms a slice on one core")
    if words.json:
        result = {
            "seconds_per_scan": {name: median(values) for name, values in seconds.items()},
            "ratios": {name: median(values) for name, values in ratios.items()},
            "rounds": {"seconds_per_scan": seconds, "ratios": ratios},
            "peak_gb": peak_gb,
            "plugin": plugin,
            "cores": cores,
            "scans": len(scans),
        }
        words.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
