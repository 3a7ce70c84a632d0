"""COVID-CT-MD in the layouts of its authors and of the SPGC challenge.

Afshar et al., "COVID-CT-MD, COVID-19 computed tomography scan dataset applicable in machine learning and deep
learning", Scientific Data 8, 121 (2021). Copies of the set differ in folder names and label files. ``Label Index`` in
Index.csv skips a number, so it is not the row of the label arrays; the values of a row run head first.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.io.discovery import scan_name
from cnr_iemn.ct.io.folders import natural_key
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.csv_io import Problems, problem_lines, read_rows
from cnr_iemn.errors import CohortError
from cnr_iemn.utils.text import listed

_CLASS_PREFIXES = {"Normal": "normal", "COVID-19": "covid", "CAP": "cap"}
_LABEL_FILES = {
    "updated-1": ("Slice-level-labels-updated-1.npy",),
    "original": ("Slice-level-labels.npy", "Slice_level_labels.npy"),  # figshare, SPGC
}

_LOBE_FILES = {
    "updated-1": ("Lobe-level-labels-updated-1.npy",),
    "original": ("Lobe-level-labels.npy", "Lobe_level_labels.npy"),
}
DAMAGED_HEADER = (ValueError, TypeError, OverflowError, EOFError, MemoryError, RecursionError, SyntaxError, TokenError)
"""Exceptions of numpy at the header of a damaged file."""

_DIAGNOSIS, _ID = "Diagnosis", "Folder/ID"
_MAX_NAMES = 5  # in a message


def read_covid_ct_md(
    root: Path,
    *,
    name: str = "covid_ct_md",
    labels: str = "updated-1",
    labelled_normals: int | None = 30,
    exclude: Collection[str] = (),
    lobes: bool = False,
) -> Cohort:
    """Return the scans below ``root`` with their classes and slice labels, without reading pixels.

    Args:
        root: The folder of the class folders.
        name: Of the cohort.
        labels: updated-1 (corrected) or original.
        labelled_normals: Number of Normal scans, in numeric order, that count as slice-labelled, all their slices
            Normal (section 2 of the paper); None for all.
        exclude: Ids of scans to leave out; they do not count among the labelled Normal scans.
        lobes: Read which lobes of their slices are diseased, too.

    Raises:
        CohortError: The folders or label files are missing or contradict each other.
    """
    if not root.is_dir():
        raise CohortError(
            f"data.root={root} is not a folder. Give the folder that holds the class folders (such as 'COVID-19 "
            "Cases') and Index.csv."
        )
    folders = _class_folders(root)
    infected = _infected_slices(root, labels)
    diseased = _diseased_lobes(root, labels, infected) if lobes else {}
    paths = {label: [f for folder in folders[label] for f in _scan_folders(folder)] for label in SPGC_CLASSES}
    scan_ids = {_scan_id(path) for folder_paths in paths.values() for path in folder_paths}
    refuse_unknown(exclude, scan_ids)
    scans: list[ScanRecord] = []
    for label in SPGC_CLASSES:
        selection = [path for path in paths[label] if _scan_id(path) not in exclude]
        for position, path in enumerate(selection):
            row = infected.get(_scan_id(path).lower())
            if row is not None and row[0] != label:
                raise CohortError(
                    f"{_scan_id(path)} lies in a folder of class {label}, but Index.csv says {row[0]}. One of the two "
                    "is wrong. Compare them with the published set."
                )
            labelled_normal = label == SPGC_CLASSES[0] and (labelled_normals is None or position < labelled_normals)
            scan_id, slices = _scan_id(path), None if row is None else row[1]
            labelled = labelled_normal or row is not None
            lobes_of = diseased.get(scan_id.lower())
            scans.append(ScanRecord(scan_id, scan_id, path, label, labelled, slices, lobes=lobes_of))
    return Cohort(name, root, SPGC_CLASSES, tuple(scans), notes=_unused(set(infected), scan_ids))


def _scan_id(path: Path) -> str:
    """Return the name of a scan's folder, without backslashes: it becomes a folder's name in the store."""
    return scan_name(path).replace("\\", "_")


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Return the folders of each class in ``root`` or one level below, by prefix, ignoring case."""
    children = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name))
    for level in (children, [g for child in children for g in sorted(child.iterdir()) if g.is_dir()]):
        by_class = {
            label: [p for p in level if p.name.lower().startswith(prefix)] for label, prefix in _CLASS_PREFIXES.items()
        }
        # at the second level a scan's folder (cap001) begins like a class, but holds files instead of folders
        by_class = {label: [p for p in folders if _scan_folders(p)] for label, folders in by_class.items()}
        if any(by_class.values()):
            return by_class
    raise CohortError(
        f"data.root={root} holds no class folder with scans in it. Expected folders whose names begin with COVID, CAP "
        "and Normal (such as 'COVID-19 Cases'), each with one folder for each scan."
    )


def _scan_folders(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))),
        key=lambda p: natural_key(p.name),
    )


def _infected_slices(root: Path, labels: str) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return class and infected slices of each scan in Index.csv, by lower-case scan id; empty without an Index.csv."""
    index = _find(root, ("Index.csv",))
    if index is None:
        return {}
    array_path = _find(root, _LABEL_FILES[labels])
    if array_path is None:
        release = next(name for name in _LABEL_FILES if name != labels)
        hint = f" data.labels={release} is there." if _find(root, _LABEL_FILES[release]) else ""
        raise CohortError(
            f"There is no {' or '.join(_LABEL_FILES[labels])} (data.labels={labels}) for {index}.{hint} Without this "
            "array no slice has a label. Copy the file there, or give another data.labels."
        )
    rows = read_rows(index, {_DIAGNOSIS, _ID}, None)
    infected = read_infected(array_path)
    if len(infected) != len(rows):
        raise CohortError(
            f"{index} lists {len(rows)} scans, but {array_path.name} has the shape {infected.shape}: it must have one "
            "row for each line. Use both files of one release."
        )
    problems = Problems(index)
    first: dict[str, int] = {}
    for (line, row), values in zip(rows, infected, strict=True):
        if not row[_ID]:
            problems.add(line, f"{_ID} is empty")
        elif first.setdefault(row[_ID].lower(), line) != line:
            problems.add(line, f"scan {row[_ID]} has its row of labels at line {first[row[_ID].lower()]} already")
        if _class_of(row[_DIAGNOSIS]) is None:
            problems.add(line, f"the diagnosis {row[_DIAGNOSIS]!r} is none of {', '.join(SPGC_CLASSES)}")
        elif _class_of(row[_DIAGNOSIS]) == SPGC_CLASSES[0] and values.any():
            problems.add(
                line, f"{row[_ID]} is {row[_DIAGNOSIS]}, but its row of labels has {values.sum()} infected slices"
            )
    if problems.lines:
        text = problem_lines(problems.lines)
        raise CohortError(f"{len(problems.lines)} problem(s) in {index}:\n{text}\nUse the file as published.")
    # by position: `Label Index` skips 43
    return {
        row[_ID].lower(): (str(_class_of(row[_DIAGNOSIS])), values)
        for (_, row), values in zip(rows, infected, strict=True)
    }


def _diseased_lobes(
    root: Path, labels: str, infected: Mapping[str, tuple[str, NDArray[np.bool_]]]
) -> dict[str, NDArray[np.bool_]]:
    """Return the diseased lobes by slice of each scan in Index.csv, bool [slices, lobes], by lower-case scan id."""
    from cnr_iemn.data.readers.lobe_labels import read_lobes

    path = _find(root, _LOBE_FILES[labels])
    if path is None or not infected:
        raise CohortError(
            f"There is no {' or '.join(_LOBE_FILES[labels])} with an Index.csv in {root}, which data.lobes=true reads. "
            "Copy both there, or give data.lobes=false."
        )
    values = read_lobes(path, np.stack([slices for _, slices in infected.values()]))
    return dict(zip(infected, values, strict=True))


def _class_of(diagnosis: str) -> str | None:
    beginnings = _CLASS_PREFIXES.items()
    return next((label for label, prefix in beginnings if diagnosis.lower().startswith(prefix)), None)


def _unused(rows: set[str], scan_ids: set[str]) -> tuple[str, ...]:
    """Return a note on rows of Index.csv without a scan: the copy is incomplete, or an id is misspelt."""
    unused = sorted(rows - {name.lower() for name in scan_ids})
    if not unused:
        return ()
    more = f" and {len(unused) - _MAX_NAMES} more" if len(unused) > _MAX_NAMES else ""
    return (
        f"Index.csv labels {len(unused)} scans that have no folder ({', '.join(unused[:_MAX_NAMES])}{more}): their "
        f"rows are not used; {len(rows) - len(unused)} are.",
    )


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files in ``root``, one level below, or one above (as in the public sample)."""
    targets = {name.lower() for name in names}
    below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in (root, *below, root.resolve().parent):
        for path in sorted(folder.iterdir()):
            if path.name.lower() in targets and path.is_file():
                return path
    return None


def refuse_unknown(exclude: Collection[str], scan_ids: set[str]) -> None:
    """Raise CohortError where ``exclude`` has an id that is not in the cohort."""
    unknown = sorted(set(exclude) - scan_ids)
    if unknown:
        raise CohortError(
            f"data.exclude names {listed(unknown)}, which the cohort does not have. Correct the names, in "
            "data.exclude or in the file of data.exclude_file."
        )


def read_infected(path: Path) -> NDArray[np.bool_]:
    """Return the mask of infected slices.

    The file is memory-mapped and never unpickled: a header that claims more than the file holds costs no memory.

    Args:
        path: A .npy file, numbers or booleans [scans, slices], 0 or 1.

    Returns:
        bool [scans, slices].

    Raises:
        CohortError: The file is no such array, cannot be read, or has another value.
    """
    try:
        array = open_memmap(path, mode="r")
    except (*DAMAGED_HEADER, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise CohortError(
            f"{path} cannot be read as an array of slice labels ({reason}). Use the .npy file as published: numbers, "
            "a row for each line of Index.csv."
        ) from error
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise CohortError(
            f"{path} has the shape {array.shape} and the type {array.dtype}, but slice labels are numbers with a row a "
            "scan and a column a slice. Use the file as published."
        )
    wrong = np.argwhere((array != 0) & (array != 1))  # NaN equals neither
    if len(wrong):
        row, column = (int(k) for k in wrong[0])
        raise CohortError(
            f"{path} holds {len(wrong)} values that are neither 0 nor 1, the first in row {row}, column {column} (from "
            f"0): {array[row, column]}. A slice is infected or not: use the file as published."
        )
    return np.array(array == 1)
