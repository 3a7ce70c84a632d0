"""How often the search for near-duplicates finds a re-exported scan, and raises an alarm in a cohort without any.

python -m benchmarks.near_duplicates --json near_duplicates.json
python -m benchmarks.near_duplicates --sample $COVID_CT_MD_SAMPLE     # and re-exports of real scans

Phantoms of 96 x 96 pixels and 30 to 32 slices, prepared as any scan is. Cohorts are drawn from a pool of about twice as
many scans, each with a split of its own; in a cohort with a re-export, this is one more validation scan.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import gumbel_r

from benchmarks.common import make_parser, write_json
from benchmarks.re_exports import Scan, re_exports, same_body
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.data.coarse_volumes import coarse_volume
from cnr_iemn.evaluation.near_duplicates import SIMILARITY, NearDuplicates, find_near_duplicates
from cnr_iemn.phantom.renderer import make_scan
from cnr_iemn.phantom.scan_spec import DISEASES
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.statistics.confidence_intervals import wilson

ROWS, SLICES = 96, (30, 32)
COHORTS = {"the paper": ((76, 171, 60), (24, 55, 19)), "the demo": ((46, 103, 36), (14, 33, 11))}
"""Scans of Normal, COVID-19 and CAP, and how many of them are validation scans."""
AGAIN = "the same body scanned again"

Volumes = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Task:
    """One phantom. ``planted``: whether its re-exports are made."""

    seed: int
    label: str
    planted: bool


def measure(task: Task, *, disease: str) -> Volumes:
    """Return the coarse volume of a phantom, under its seed, and those of its re-exports, by kind."""
    scan = make_scan(task.seed, task.label, rows=ROWS, n_slices=SLICES, disease=disease)
    scans: dict[str, Scan] = {"": (scan.hu, scan.spacing_mm)}
    if task.planted:
        scans |= re_exports(scan.hu, scan.spacing_mm, np.random.default_rng(task.seed))
        scans[AGAIN] = same_body(scan, n_slices=SLICES)
    return volumes_of(scans)


def volumes_of(scans: Mapping[str, Scan]) -> Volumes:
    """Return the coarse volumes of scans, prepared as for the store; one without lungs is an error here."""
    volumes = {}
    for name, (hu, spacing) in scans.items():
        volume = coarse_volume(window_to_uint8(hu, low=-1000, high=400), segment_lungs(hu, spacing).mask.view(np.uint8))
        assert volume is not None
        volumes[name] = volume
    return volumes


def draw_split(
    labels: NDArray[np.str_], counts: tuple[tuple[int, ...], tuple[int, ...]], rng: np.random.Generator
) -> dict[int, str]:
    """Return a side for each drawn scan, by its number in the pool."""
    split: dict[int, str] = {}
    for name, n, held_out in zip(SPGC_CLASSES, *counts, strict=True):
        drawn = rng.choice(np.flatnonzero(labels == name), n, replace=False)
        split |= {int(k): VALIDATION if position < held_out else TRAINING for position, k in enumerate(drawn)}
    return split


def search(split: Mapping[str, str], volumes: Volumes) -> NearDuplicates:
    """Return what the search reports for a cohort."""
    report = find_near_duplicates(pd.DataFrame({"split": pd.Series(split)}), volumes)
    assert report is not None
    return report


def clean_cohorts(
    pool: Volumes, labels: NDArray[np.str_], counts: tuple[tuple[int, ...], tuple[int, ...]], n: int
) -> dict[str, object]:
    """Return how many of ``n`` cohorts without a re-export raise an alarm, and the highest correlations."""
    rng = np.random.default_rng(0)
    reports = [search({str(k): side for k, side in draw_split(labels, counts, rng).items()}, pool) for _ in range(n)]
    highest = np.array([report["highest"] for report in reports])
    alarms = sum(bool(report["pairs"]) for report in reports)
    return {
        "cohorts": n,
        "alarms": alarms,
        "interval": wilson(alarms, n),
        "median of the highest": float(np.median(highest)),
        "highest": float(highest.max()),
        "chance of an alarm, Gumbel": float(gumbel_r.sf(SIMILARITY, *gumbel_r.fit(highest))),
    }


def planted_cohorts(
    pool: Volumes,
    planted: Mapping[int, Volumes],
    labels: NDArray[np.str_],
    counts: tuple[tuple[int, ...], tuple[int, ...]],
) -> dict[str, dict[str, object]]:
    """Return how many re-exports of training scans are found, by kind: each in a cohort of its own."""
    rng = np.random.default_rng(1)
    similarities: dict[str, list[float]] = {}
    hits: dict[str, int] = {}
    for number, copies in planted.items():
        for kind, volume in copies.items():
            split = {str(k): side for k, side in draw_split(labels, counts, rng).items()} | {str(number): TRAINING}
            report = search(split | {"copy": VALIDATION}, pool | {"copy": volume})
            pairs = {(pair["training"], pair["validation"]): pair["similarity"] for pair in report["pairs"]}
            hits[kind] = hits.get(kind, 0) + ((str(number), "copy") in pairs)
            similarities.setdefault(kind, []).append(pairs.get((str(number), "copy"), 0.0))
    return {
        kind: {
            "n": len(values),
            "found": hits[kind],
            "interval": wilson(hits[kind], len(values)),
            "5% and median": np.quantile(values, [0.05, 0.5]).tolist(),
        }
        for kind, values in similarities.items()
    }


def real_scans(sample: Path) -> dict[str, float]:
    """Return the correlation of each real scan with its re-exports, and the highest of two different scans."""
    folders = sorted(path for path in sample.glob("*/*") if path.is_dir())
    originals: Volumes = {}
    copies: Volumes = {}
    for folder in folders:
        scan = read_scan(folder)
        step, row, column = scan.spacing_mm  # every other pixel, which the cells do not see
        hu, spacing = scan.hu[:, ::2, ::2], (step, 2 * row, 2 * column)
        kinds = {"": (hu, spacing), **re_exports(hu, spacing, np.random.default_rng(0))}
        volumes = volumes_of(kinds)
        originals[folder.name] = volumes.pop("")
        copies |= {f"{folder.name}, {kind}": volume for kind, volume in volumes.items()}
    split = dict.fromkeys(originals, TRAINING)
    result: dict[str, float] = {}
    for name, volume in copies.items():
        original = name.partition(",")[0]
        different = {key: copy for key, copy in originals.items() if key != original}
        # the cohort: the three scans, and the copy as the only validation scan
        report = find_near_duplicates(
            pd.DataFrame({"split": pd.Series(split | {name: VALIDATION})}), originals | {name: volume}, threshold=-1
        )
        assert report is not None
        by_scan = {pair["training"]: pair["similarity"] for pair in report["pairs"]}
        result[name] = by_scan[original]
        result["two different scans"] = max(
            result.get("two different scans", -1.0), *(by_scan[other] for other in different)
        )
    return result


def main() -> None:
    """Print the rates."""
    parser = make_parser(__doc__)
    parser.add_argument("--pool", nargs=3, type=int, default=(150, 340, 120), help="Normal, COVID-19, CAP")
    parser.add_argument("--planted", type=int, default=60, help="scans whose re-exports are made")
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--disease", choices=DISEASES, default="published")
    parser.add_argument("--first-seed", type=int, default=900_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=Path, help="folder of the public scans of COVID-CT-MD, in place of phantoms")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.sample:
        result: dict[str, object] = {"real": real_scans(options.sample)}
        print(result)
        write_json(options.json, result)
        return
    labels = np.random.default_rng(0).permutation(np.repeat(SPGC_CLASSES, options.pool))
    tasks = [Task(options.first_seed + k, str(label), k < options.planted) for k, label in enumerate(labels)]
    with ProcessPoolExecutor(options.workers) as processes:
        measured = list(processes.map(partial(measure, disease=options.disease), tasks, chunksize=4))
    pool = {str(k): volumes.pop("") for k, volumes in enumerate(measured)}
    planted = {k: volumes for k, volumes in enumerate(measured) if volumes}
    result = {"threshold": SIMILARITY, "pool": list(options.pool), "disease": options.disease}
    for name, counts in COHORTS.items():
        result[name] = {
            "clean": clean_cohorts(pool, labels, counts, options.cohorts),
            "planted": planted_cohorts(pool, planted, labels, counts),
        }
        print(name, result[name], sep="\n")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
