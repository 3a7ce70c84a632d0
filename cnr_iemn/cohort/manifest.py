"""Any cohort, described by one CSV with a line a scan, and a second one where slices are labelled.

Columns: scan_id, path, class; as wanted split (training or validation), patient_id, values (windowed or hu), offset,
spacing_mm (slice step, row and column, as 2.5 0.7 0.7). A path, relative to the CSV, is a DICOM folder, a zip, a NIfTI
file, a folder of images, an image, or several images with ; between them, head first. Slice labels: scan_id,
slice_index (from 0, head first), class.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.cohort.covid_ct_md import refuse_unknown
from cnr_iemn.cohort.csv_rows import Problems, read_rows
from cnr_iemn.ct.find import MAX_SLICES, is_litter, is_nifti, is_zip
from cnr_iemn.ct.folders import natural_key
from cnr_iemn.ct.images import SUFFIXES, VALUES, ImageStack
from cnr_iemn.errors import CohortError
from cnr_iemn.records import TRAINING, VALIDATION

HEALTHY = ("normal", "healthy", "negative", "control", "non-covid", "noncovid")
_COLUMNS = {"scan_id", "path", "class"}
_OPTIONAL = {"split", "patient_id", "values", "offset", "spacing_mm"}
_SLICE_COLUMNS = {"scan_id", "slice_index", "class"}


def read_manifest(
    path: Path,
    *,
    name: str = "manifest",
    slices: Path | None = None,
    classes: Collection[str] | None = None,
    labelled_normals: int | None = None,
    exclude: Collection[str] = (),
) -> Cohort:
    """Return the cohort of a manifest. No pixel is read.

    ``slices``: CSV of slice labels; slices of a labelled scan that it does not name are healthy. ``classes``: names,
    healthy first; by default in the order in which they appear, the one that is called as in HEALTHY first.
    ``labelled_normals``: the first so many scans of the healthy class count as slice-labelled; None = all. A scan of
    one slice is labelled by its class. Raises CohortError with every problem of both files and their lines.
    """
    rows = read_rows(path, _COLUMNS, _OPTIONAL)
    problems = Problems(path)
    names = _classes(rows, problems) if classes is None else tuple(classes)
    if len(names) < 2:
        problems.add(1, f"one class only ({', '.join(names)}); two at least are needed to tell apart")
    records = [_record(line, row, path.parent, names, problems) for line, row in rows]
    _check_ids(rows, problems)
    _check_splits(rows, problems)
    labels: dict[str, dict[int, str]] = {}
    found = list(problems.found)
    if slices is not None:
        labels, more = _slice_labels(slices, {record.scan_id: record for record in records if record}, names)
        found += more
    if found:
        shown = "\n".join(found)
        raise CohortError(f"{len(found)} problem(s) in the manifest {path}:\n{shown}\nNothing was read. Correct them.")
    scans = [record for record in records if record is not None]
    refuse_unknown(exclude, {scan.scan_id for scan in scans})
    kept = [scan for scan in scans if scan.scan_id not in exclude]
    split = {row["scan_id"]: row["split"] for _, row in rows if row.get("split") and row["scan_id"] not in exclude}
    return Cohort(name, path, names, tuple(_labelled(kept, labels, names, labelled_normals)), split or None)


def _classes(rows: list[tuple[int, dict[str, str]]], problems: Problems) -> tuple[str, ...]:
    """Return the classes in the order in which they appear, but the healthy one first, known by its name."""
    names = list(dict.fromkeys(row["class"] for _, row in rows))
    healthy = [name for name in names if name.lower() in HEALTHY]
    if len(healthy) != 1:
        problems.add(1, f"which of {', '.join(names)} is the healthy class? Say data.classes=[HEALTHY,...]")
    return tuple(sorted(names, key=lambda name: name not in healthy))


def _record(
    line: int, row: dict[str, str], folder: Path, classes: tuple[str, ...], problems: Problems
) -> ScanRecord | None:
    before = len(problems.found)
    scan_id = row["scan_id"]
    if not scan_id or scan_id.startswith(".") or any(c in scan_id for c in "/\\"):
        problems.add(line, f"scan_id {scan_id!r} becomes a folder's name and cannot be used as one")
    if row["class"] not in classes:
        problems.add(line, f"class {row['class']!r} is none of {', '.join(classes)}")
    stack = _stack(line, row, folder, problems)
    first = folder / row["path"].split(";")[0].strip()
    if len(problems.found) > before:
        return None
    return ScanRecord(scan_id, row.get("patient_id") or scan_id, first, row["class"], images=stack)


def _stack(line: int, row: dict[str, str], folder: Path, problems: Problems) -> ImageStack | None:
    """Return the images that a row names, None where it names another kind of scan."""
    files = _image_files(line, [folder / part.strip() for part in row["path"].split(";") if part.strip()], problems)
    if not files:
        return None
    values = row.get("values") or "windowed"
    if values not in VALUES:
        problems.add(line, f"values {values!r} is neither of {', '.join(VALUES)}")
    offset = _number(row.get("offset") or "0")
    if offset is None:
        problems.add(line, f"offset {row['offset']!r} is no number")
    spacing = [_number(part) for part in (row.get("spacing_mm") or "").split()]
    if spacing and (len(spacing) != 3 or any(value is None or value <= 0 for value in spacing)):
        problems.add(line, f"spacing_mm {row['spacing_mm']!r} is not three lengths such as '2.5 0.7 0.7'")
        spacing = []
    lengths = tuple(value for value in spacing if value is not None)
    return ImageStack(row["scan_id"], tuple(files), values, offset or 0.0, lengths or None)  # type: ignore[arg-type]


def _image_files(line: int, paths: list[Path], problems: Problems) -> list[Path]:
    """Return the image files among these paths or in the one folder; none where they are another kind of scan."""
    missing = [path for path in paths if not path.exists()]
    for path in missing:
        problems.add(line, f"path {path} does not exist")
    if not paths:
        problems.add(line, "path is empty")
    if missing or not paths or (len(paths) == 1 and (is_nifti(paths[0]) or is_zip(paths[0]))):
        return []
    if len(paths) == 1 and paths[0].is_dir():
        files = [child for child in paths[0].rglob("*") if child.is_file() and not is_litter(child)]
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        if len(images) < max(len(files) / 2, 1):  # pictures beside DICOM files are no slices
            return []
        if len(images) < len(files):
            problems.add(line, f"{paths[0]} holds {len(images)} images and {len(files) - len(images)} other files")
        return sorted(images, key=lambda image: natural_key(image.as_posix()))
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
    """Every scan has a split or none has, and all scans of a patient have the same."""
    given = [row for _, row in rows if row.get("split")]
    side: dict[str, tuple[str, int]] = {}
    for line, row in rows:
        split, patient = row.get("split", ""), row.get("patient_id") or row["scan_id"]
        if given and split not in {TRAINING, VALIDATION}:
            problems.add(line, f"split {split!r} is neither {TRAINING} nor {VALIDATION}")
            continue
        first = side.setdefault(patient, (split, line))
        if first[0] != split:
            problems.add(line, f"patient {patient!r} is in {split} here and in {first[0]} at line {first[1]}")


def _slice_labels(
    path: Path, scans: dict[str, ScanRecord], classes: tuple[str, ...]
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Return the class of each listed slice by scan, and what is wrong with the file."""
    problems = Problems(path)
    labels: dict[str, dict[int, str]] = {}
    for line, row in read_rows(path, _SLICE_COLUMNS, set()):
        scan = scans.get(row["scan_id"])
        if scan is None:
            problems.add(line, f"scan_id {row['scan_id']!r} is not in the manifest")
            continue
        if row["class"] not in (classes[0], scan.label):
            problems.add(line, f"class {row['class']!r} is neither {classes[0]} nor the scan's own, {scan.label}")
        index = int(row["slice_index"]) if row["slice_index"].isdecimal() else -1
        limit = _most_slices(scan)
        if index < 0 or (limit is not None and index >= limit):
            count = f"; {scan.scan_id} has {limit} at most" if limit is not None else ""
            problems.add(line, f"slice_index {row['slice_index']!r} is no slice, counted from 0{count}")
        elif labels.setdefault(scan.scan_id, {}).setdefault(index, row["class"]) != row["class"]:
            problems.add(line, f"slice {index} of {scan.scan_id} has two classes")
        else:
            labels[scan.scan_id][index] = row["class"]
    return labels, problems.found


def _most_slices(scan: ScanRecord) -> int | None:
    """Return how many slices a scan has, None where only reading it tells (a file may hold many frames)."""
    if scan.images is not None:
        return len(scan.images.files)
    return None


def _labelled(
    scans: list[ScanRecord], labels: dict[str, dict[int, str]], classes: tuple[str, ...], normals: int | None
) -> list[ScanRecord]:
    healthy = 0
    result = []
    for scan in scans:
        infected: NDArray[np.bool_] | None = None
        single = scan.images is not None and len(scan.images.files) == 1
        labelled = single or scan.scan_id in labels
        if scan.label == classes[0]:
            if not labelled:
                labelled = normals is None or healthy < normals
                healthy += 1
        elif scan.scan_id in labels:
            listed = labels[scan.scan_id]
            infected = np.zeros(_most_slices(scan) or MAX_SLICES, bool)  # whatever is not named is healthy
            infected[[index for index, label in listed.items() if label != classes[0]]] = True
        elif single:
            infected = np.ones(1, bool)
        result.append(replace(scan, slice_labelled=labelled, infected=infected))
    return result
