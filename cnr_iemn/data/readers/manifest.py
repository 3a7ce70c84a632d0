"""A cohort in CSV files: the manifest with one line a scan, and optional slice labels.

Columns of the manifest: scan_id, path, class (may be empty with ``data.empty_class=predict``); optional: split
(training or validation), patient_id, values (windowed or hu), offset, spacing_mm (slice step, row and column, as
2.5 0.7 0.7), sex, age, site, and any that begins with group_. A path, relative to the CSV, is a DICOM folder, a zip, a
NIfTI file, a folder of images, an image, or several images separated by ;, head first. Columns of the slice labels:
scan_id, slice_index (from 0, head first), class.
"""

import math
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.discovery import is_nifti, is_zip
from cnr_iemn.ct.io.image_stack import SUFFIXES, VALUES, ImageStack, image_files
from cnr_iemn.ct.io.slice_files import MAX_SLICES
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.csv_io import Problems, problem_lines, read_rows
from cnr_iemn.data.demographics.manifest_columns import COLUMNS, declared_groups
from cnr_iemn.data.names import check_classes, id_fault
from cnr_iemn.data.readers.covid_ct_md import refuse_unknown
from cnr_iemn.data.readers.manifest_classes import read_classes, spelling_hint
from cnr_iemn.errors import CohortError
from cnr_iemn.schemas import NO_CLASS, NO_SIDE, TRAINING, VALIDATION

_COLUMNS = {"scan_id", "path", "class"}
_OPTIONAL = {"split", "patient_id", "values", "offset", "spacing_mm", *COLUMNS}
_SLICE_COLUMNS = {"scan_id", "slice_index", "class"}


def read_manifest(
    path: Path,
    *,
    name: str = "manifest",
    slices: Path | None = None,
    classes: Collection[str] | None = None,
    labelled_normals: int | None = None,
    empty_class: str = "refuse",
    exclude: Collection[str] = (),
) -> Cohort:
    """Return the cohort of a manifest without reading pixels. A scan of one image is labelled by its class.

    Args:
        path: The manifest.
        name: Of the cohort.
        slices: CSV of slice labels; slices of a labelled scan that it does not list are healthy.
        classes: Names, healthy first; by default in the order of the lines, but the one in
            ``manifest_classes.HEALTHY`` first.
        labelled_normals: Number of scans of the healthy class, in order, that count as slice-labelled; None for all.
        empty_class: refuse, or predict for scans without a class.
        exclude: Ids of scans to leave out.

    Raises:
        CohortError: With every problem of both files and their lines.
    """
    rows = read_rows(path, _COLUMNS, _OPTIONAL)
    problems = Problems(path)
    if classes is not None:
        check_classes(tuple(classes), "data.classes")
    names = read_classes(rows, None if classes is None else tuple(classes), empty_class, problems)
    records = [_record(line, row, path.parent, problems) for line, row in rows]
    _check_ids(rows, problems)
    _check_splits(rows, problems)
    labels: dict[str, dict[int, str]] = {}
    faults = list(problems.lines)
    if slices is not None:
        scan_ids = {row["scan_id"] for _, row in rows}
        classed = {record.scan_id: record for record in records if record}
        labels, slice_faults = _slice_labels(slices, classed, names, scan_ids)
        faults += slice_faults
    if faults:
        text = problem_lines(faults)
        raise CohortError(f"{len(faults)} problem(s) in the manifest {path}:\n{text}\nNothing was read. Correct them.")
    scans = [record for record in records if record is not None]
    refuse_unknown(exclude, {scan.scan_id for scan in scans})
    selection = [scan for scan in scans if scan.scan_id not in exclude]
    split = {row["scan_id"]: row.get("split", NO_SIDE) for _, row in rows if row["scan_id"] not in exclude}
    cohort = Cohort(
        name,
        path,
        names,
        tuple(_labelled(selection, labels, names, labelled_normals)),
        split if any(split.values()) else None,
    )
    return replace(cohort, notes=_notes(cohort, configured=classes is not None))


def _notes(cohort: Cohort, *, configured: bool) -> tuple[str, ...]:
    """Return sentences on the number of scans of each class, on the healthy class, and on scans without a class."""
    counts = ", ".join(f"{name} {n}" for name, n in cohort.counts.items())
    reason = "first in data.classes" if configured else "by its name; data.classes=[HEALTHY,...] names another"
    notes = [f"{cohort.name}: scans by class: {counts}. {cohort.classes[0]} counts as healthy ({reason})."]
    n = sum(scan.label == NO_CLASS for scan in cohort.scans)
    if n:
        notes.append(f"{n} scans have no class: they are predicted, but neither trained nor scored on.")
    return tuple(notes)


def read_inputs(path: Path) -> list[tuple[str, Path | ImageStack]]:
    """Return id and source of each scan of a manifest; its classes, patients and splits are not used.

    Args:
        path: A CSV as ``read_manifest`` takes it; the column class may be missing.

    Returns:
        The id of each scan and the source for ``prepare_scan``, in the order of the lines.

    Raises:
        CohortError: With every problem of the file and its line.
    """
    rows = read_rows(path, _COLUMNS - {"class"}, _OPTIONAL | {"class"})
    problems = Problems(path)
    records = [_record(line, {**row, "class": ""}, path.parent, problems) for line, row in rows]
    _check_ids(rows, problems)
    if problems.lines:
        text = problem_lines(problems.lines)
        raise CohortError(f"{len(problems.lines)} problem(s) in {path}:\n{text}\nNothing was read. Correct them.")
    return [(record.scan_id, record.source) for record in records if record is not None]


def _record(line: int, row: dict[str, str], folder: Path, problems: Problems) -> ScanRecord | None:
    n_problems = len(problems.lines)
    scan_id = row["scan_id"]
    fault = id_fault(scan_id)
    if fault:
        problems.add(line, fault)
    stack = _stack(line, row, folder, problems)
    declared = declared_groups(line, row, problems)
    path = folder / row["path"].split(";")[0].strip()
    if len(problems.lines) > n_problems:
        return None
    return ScanRecord(scan_id, row.get("patient_id") or scan_id, path, row["class"], images=stack, declared=declared)


def _stack(line: int, row: dict[str, str], folder: Path, problems: Problems) -> ImageStack | None:
    """Return the images in a row's path; None where it is another kind of scan."""
    files = _image_files(line, [folder / field.strip() for field in row["path"].split(";") if field.strip()], problems)
    if not files:
        return None
    values = row.get("values") or "windowed"
    if values not in VALUES:
        problems.add(line, f"values {values!r} is neither of {', '.join(VALUES)}")
    offset = _number(row.get("offset") or "0")
    if offset is None:
        problems.add(line, f"offset {row['offset']!r} is no number")
    spacing = [_number(field) for field in (row.get("spacing_mm") or "").split()]
    if spacing and (len(spacing) != 3 or any(value is None or value <= 0 for value in spacing)):
        problems.add(line, f"spacing_mm {row['spacing_mm']!r} is not three lengths such as '2.5 0.7 0.7'")
        spacing = []
    lengths = tuple(value for value in spacing if value is not None)
    return ImageStack(row["scan_id"], tuple(files), values, offset or 0.0, lengths or None)  # type: ignore[arg-type]


def _image_files(line: int, paths: list[Path], problems: Problems) -> list[Path]:
    """Return the image files among these paths or in their only folder; none where they are another kind of scan."""
    missing = [path for path in paths if not os.path.exists(path)]  # unlike Path.exists, False for an overlong name
    for path in missing:
        problems.add(line, f"path {path} does not exist")
    if not paths:
        problems.add(line, "path is empty")
    if missing or not paths or (len(paths) == 1 and (is_nifti(paths[0]) or is_zip(paths[0]))):
        return []
    if len(paths) == 1 and paths[0].is_dir():
        images, n_others = image_files(paths[0])
        if len(images) < max(n_others, 1):  # a few pictures among DICOM files are no slices
            return []
        if n_others:
            problems.add(line, f"{paths[0]} holds {len(images)} images and {n_others} other files")
        return images
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            problems.add(line, f"{path} is no DICOM folder, zip, NIfTI file or image ({', '.join(SUFFIXES)})")
            return []
    return paths


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_ids(rows: list[tuple[int, dict[str, str]]], problems: Problems) -> None:
    counts = Counter(row["scan_id"] for _, row in rows)
    for line, row in rows:
        if counts[row["scan_id"]] > 1:
            problems.add(line, f"scan_id {row['scan_id']!r} is given {counts[row['scan_id']]} times")


def _check_splits(rows: list[tuple[int, dict[str, str]]], problems: Problems) -> None:
    """Note scans without a split where others have one, and patients on both sides."""
    has_splits = any(row.get("split") for _, row in rows)
    sides: dict[str, tuple[str, int]] = {}
    for line, row in rows:
        split, patient = row.get("split", ""), row.get("patient_id") or row["scan_id"]
        if row["class"] == NO_CLASS:
            if split:
                problems.add(line, f"split {split!r}, but the scan has no class: leave its split empty")
            continue
        if has_splits and split not in {TRAINING, VALIDATION}:
            problems.add(line, f"split {split!r} is neither {TRAINING} nor {VALIDATION}")
            continue
        first = sides.setdefault(patient, (split, line))
        if first[0] != split:
            problems.add(line, f"patient {patient!r} is in {split} here and in {first[0]} at line {first[1]}")


def _slice_labels(
    path: Path, scans: dict[str, ScanRecord], classes: tuple[str, ...], scan_ids: Collection[str]
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Return the class of each listed slice by scan, and the problems of the file.

    ``scan_ids``: all ids in the manifest, also those of faulty lines.
    """
    problems = Problems(path)
    labels: dict[str, dict[int, str]] = {}
    for line, row in read_rows(path, _SLICE_COLUMNS, set()):
        scan = scans.get(row["scan_id"])
        if scan is None:
            if row["scan_id"] not in scan_ids:
                problems.add(line, f"scan_id {row['scan_id']!r} is not in the manifest")
            continue
        if scan.label == NO_CLASS:
            problems.add(line, f"{scan.scan_id} has no class in the manifest, so its slices cannot have one")
        elif row["class"] not in (classes[0], scan.label):
            choices = f"neither {classes[0]} nor {scan.label}, the class of the scan"
            problems.add(
                line, f"class {row['class']!r} is {choices}{spelling_hint(row['class'], (classes[0], scan.label))}"
            )
        index = int(row["slice_index"]) if row["slice_index"].isdecimal() else -1
        limit = _max_slices(scan)
        if index < 0 or (limit is not None and index >= limit):
            count = f"; {scan.scan_id} has {limit} at most" if limit is not None else ""
            problems.add(line, f"slice_index {row['slice_index']!r} is no slice, counted from 0{count}")
        elif labels.setdefault(scan.scan_id, {}).setdefault(index, row["class"]) != row["class"]:
            problems.add(line, f"slice {index} of {scan.scan_id} has two classes")
        else:
            labels[scan.scan_id][index] = row["class"]
    return labels, problems.lines


def _max_slices(scan: ScanRecord) -> int | None:
    """Return the largest possible number of slices; None where only reading the files tells."""
    if scan.images is not None:
        return len(scan.images.files)
    return None


def _labelled(
    scans: list[ScanRecord], labels: dict[str, dict[int, str]], classes: tuple[str, ...], normals: int | None
) -> list[ScanRecord]:
    healthy = 0
    records = []
    for scan in scans:
        infected: NDArray[np.bool_] | None = None
        one_image = scan.one_image and scan.label != NO_CLASS
        labelled = one_image or scan.scan_id in labels
        if scan.label == classes[0]:
            if not labelled:
                labelled = normals is None or healthy < normals
                healthy += 1
        elif scan.scan_id in labels:
            classes_of_slices = labels[scan.scan_id]
            infected = np.zeros(_max_slices(scan) or MAX_SLICES, bool)  # slices that are not listed are healthy
            infected[[index for index, label in classes_of_slices.items() if label != classes[0]]] = True
        elif one_image:
            infected = np.ones(1, bool)
        records.append(replace(scan, slice_labelled=labelled, infected=infected))
    return records
