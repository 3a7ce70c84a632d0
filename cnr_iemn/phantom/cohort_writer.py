"""Write the phantom cohort as a COVID-CT-MD tree, so that the reader of the real set reads it."""

import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import CohortError
from cnr_iemn.phantom.dicom_writer import write_series
from cnr_iemn.phantom.renderer import make_scan
from cnr_iemn.phantom.scan_spec import PUBLISHED
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import exclusive
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.processes import spawn_context

log = logging.getLogger(__name__)

RECIPE_VERSIONS = {"published": 3, "clear": 4}
"""By disease; raised whenever the same arguments give other files."""
LABEL_COLUMNS = 200
"""Slices a label row has room for, as published."""
SKIPPED_LABEL_INDEX = 43
"""``Label Index`` of the published Index.csv leaves this number out, so it is not the row of the label arrays."""

_FOLDERS = {"Normal": "Normal subjects", "COVID-19": "COVID-19 subjects", "CAP": "Cap subjects"}
_PREFIXES = {"Normal": "normal", "COVID-19": "P", "CAP": "cap"}


@dataclass(frozen=True)
class Job:
    """One scan to write."""

    root: Path
    label: str
    number: int
    seed: int
    rows: int
    n_slices: tuple[int, int]
    disease: str = PUBLISHED

    @property
    def scan_id(self) -> str:
        """The folder's name, such as P001, cap001 or normal001."""
        return f"{_PREFIXES[self.label]}{self.number:03d}"


@dataclass(frozen=True)
class Truth:
    """What is known of a written scan: label rows as reported, and tables for studies that readers never see."""

    job: Job
    labelled: NDArray[np.bool_]
    lobes: NDArray[np.bool_]
    scan: Mapping[str, object]
    lesions: pd.DataFrame


class _Arguments(TypedDict, total=False):
    scans: dict[str, int]
    labelled: dict[str, int]
    seed: int
    rows: int
    n_slices: list[int]
    disease: str


def write_cohort(
    root: Path,
    *,
    scans: Mapping[str, int],
    labelled: Mapping[str, int],
    seed: int,
    rows: int = 512,
    n_slices: tuple[int, int] = (112, 186),
    disease: str = PUBLISHED,
    workers: int = 1,
) -> None:
    """Write a phantom cohort to ``root``.

    ``scans``: number of scans of each class; ``labelled``: of how many of the first COVID-19 and CAP scans the slices
    are labelled (these, and only these, are in Index.csv). ``rows``: side of the matrix in pixels; ``n_slices``:
    range of the number of slices; neither changes sizes in mm. ``disease``: published or clear. ``workers``: processes;
    their number changes nothing.
    The tree appears when it is whole. Where ``root`` holds the same cohort already, nothing is done. Beside the
    published files it holds phantom.json, and truth/{scans,lesions}.parquet for studies of the phantom itself.

    Raises CohortError for impossible arguments, or when ``root`` holds something else.
    """
    check_arguments(scans, labelled, rows, n_slices)
    arguments = {
        "schema_version": SCHEMA_VERSION,
        "recipe_version": RECIPE_VERSIONS[disease],
        "scans": {name: int(scans.get(name, 0)) for name in SPGC_CLASSES},
        "labelled": {name: int(labelled.get(name, 0)) for name in SPGC_CLASSES[1:]},
        "seed": seed,
        "rows": rows,
        "n_slices": list(n_slices),
        "disease": disease,
    }
    if holds_cohort(root, arguments):
        return

    def wait() -> None:
        log.info("Another process writes %s; waiting for it ...", root)

    with exclusive(root.with_name(f".{root.name}.lock"), wait):
        if holds_cohort(root, arguments):  # that process has written it
            return
        partial = root.with_name(f".{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
        partial.mkdir()
        try:
            names = [(name, number) for name in SPGC_CLASSES for number in range(1, scans.get(name, 0) + 1)]
            jobs = [
                Job(partial, name, number, scan_seed(seed, index), rows, n_slices, disease)
                for index, (name, number) in enumerate(names)
            ]
            write_tables(partial, run_jobs(jobs, workers), labelled)
            (partial / "phantom.json").write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # nothing left to remove after the rename


def scan_seed(seed: int, index: int) -> int:
    """Return the seed of the cohort's scan number ``index``: unrelated to its neighbours' and to its class."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def check_arguments(
    scans: Mapping[str, int], labelled: Mapping[str, int], rows: int, n_slices: tuple[int, int]
) -> None:
    """Raise CohortError where no cohort can have these numbers."""
    unknown = sorted((set(scans) - set(SPGC_CLASSES)) | (set(labelled) - set(SPGC_CLASSES[1:])))
    if unknown:
        raise CohortError(
            f"The phantom cohort has no scans or slice labels of {', '.join(unknown)}: its classes are "
            f"{', '.join(SPGC_CLASSES)}, and {SPGC_CLASSES[0]} scans are never slice-labelled. Correct the names."
        )
    for name, count in labelled.items():
        if not 0 <= count <= scans.get(name, 0):
            raise CohortError(
                f"{count} of {scans.get(name, 0)} {name} scans cannot be slice-labelled. Give at most as many as scans."
            )
    if not 0 < n_slices[0] <= n_slices[1] <= LABEL_COLUMNS:
        raise CohortError(
            f"n_slices={n_slices}: give a rising range between 1 and {LABEL_COLUMNS}, the length of a label row."
        )
    if not 32 <= rows <= 1024:
        raise CohortError(f"rows={rows}: the phantom is made for matrices of 32 to 1024 pixels. Give one of these.")


def holds_cohort(root: Path, arguments: Mapping[str, object]) -> bool:
    """Return whether ``root`` holds the cohort of these arguments; raise CohortError where it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    described = root / "phantom.json"
    if not described.is_file():
        raise CohortError(f"{root} exists and holds no phantom cohort. Name another folder for the phantom cohort.")
    again = "Remove that folder, and the phantom cohort is written anew, or name another one."
    stored: dict[str, object] = dict(
        read_json(described, _Arguments, again=again, refusal=CohortError, extra="allow", versioned=False)
    )
    if stored == arguments:
        return True
    differing = ", ".join(
        f"{name}: {stored.get(name)} there, {arguments.get(name)} asked"
        for name in sorted({*stored, *arguments})
        if stored.get(name) != arguments.get(name)
    )
    raise CohortError(f"{root} holds another phantom cohort ({differing}). Remove that folder or name another one.")


def run_jobs(jobs: list[Job], workers: int) -> list[Truth]:
    """Write all scans, in ``workers`` processes, and return their truths in the order of ``jobs``."""
    if workers <= 1:
        return [write_scan(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=spawn_context(), initializer=use_one_thread) as pool:
        return list(pool.map(write_scan, jobs, chunksize=1))


def use_one_thread() -> None:
    """Keep OpenCV in this process to one thread: the processes already fill the cores."""
    import cv2

    cv2.setNumThreads(1)


def write_scan(job: Job) -> Truth:
    """Make one scan, write its files and return what is known of it."""
    scan = make_scan(job.seed, job.label, rows=job.rows, n_slices=job.n_slices, disease=job.disease)
    write_series(job.root / _FOLDERS[job.label] / job.scan_id, scan)
    signs = asdict(scan.spec.signs) if scan.spec.signs else {}
    if signs:
        signs["lobes"] = len(signs["lobes"])
        signs |= signs.pop("amount", {})
        signs = {name: value for name, value in signs.items() if name not in ("runs", "shares")}  # of single lobes
    row = {
        "scan_id": job.scan_id,
        "label": job.label,
        "seed": str(job.seed),
        "n_slices": len(scan.hu),
        "step_mm": scan.spacing_mm[0],
        "pixel_mm": scan.spacing_mm[1],
        "lung_litres": float(scan.lungs.sum() * np.prod(scan.spacing_mm) / 1e6),
        "infected_slices": int(scan.infected.sum()),
        "infected": "".join("01"[int(v)] for v in scan.infected),
        "findings": ",".join(sorted({finding.kind for finding in scan.spec.findings})),
        **signs,
    }
    lesions = scan.lesions.assign(scan_id=job.scan_id)
    return Truth(job, scan.labelled, scan.labelled_lobes, row, lesions)


def write_tables(root: Path, truths: list[Truth], labelled: Mapping[str, int]) -> None:
    """Write Index.csv, the label arrays as published, and the truth."""
    listed = [
        t for name in SPGC_CLASSES[1:] for t in truths if t.job.label == name and t.job.number <= labelled.get(name, 0)
    ]
    slices = np.zeros((len(listed), LABEL_COLUMNS), np.int32)
    lobes = np.zeros((len(listed), LABEL_COLUMNS, 5), np.float64)
    lines = ["Label Index,Diagnosis,Relative Path,Folder/ID"]
    for row, truth in enumerate(listed):
        slices[row, : len(truth.labelled)] = truth.labelled
        lobes[row, : len(truth.lobes)] = truth.lobes
        number = row + (row >= SKIPPED_LABEL_INDEX)
        lines.append(f"{number},{truth.job.label},./{truth.job.label}/,{truth.job.scan_id}")
    (root / "Index.csv").write_text("\n".join(lines) + "\n", encoding="ascii")
    np.save(root / "Slice-level-labels-updated-1.npy", slices)
    np.save(root / "Slice-level-labels.npy", slices.astype(np.int64))
    np.save(root / "Lobe-level-labels-updated-1.npy", lobes)
    folder = root / "truth"
    folder.mkdir()
    pd.DataFrame([t.scan for t in truths]).to_parquet(folder / "scans.parquet", index=False)
    pd.concat([t.lesions for t in truths], ignore_index=True).to_parquet(folder / "lesions.parquet", index=False)
