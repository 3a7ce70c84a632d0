"""COVID-CT-MD as its authors publish it, and as the SPGC challenge spread it.

Afshar et al., "COVID-CT-MD, COVID-19 computed tomography scan dataset applicable in machine learning and deep
learning", Scientific Data 8, 121 (2021). Folder names, label files and their traps differ between copies of the set;
those met here: class folders in several spellings, ``Label Index`` in Index.csv that skips a number and so is not the
row of the label arrays, and rows that run head first.
"""

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.ct.folders import natural_key
from cnr_iemn.errors import CohortError
from cnr_iemn.registry import SPGC_CLASSES

_CLASS_PREFIXES = {"Normal": "normal", "COVID-19": "covid", "CAP": "cap"}
_LABEL_FILES = {
    "updated-1": ("Slice-level-labels-updated-1.npy",),
    "original": ("Slice-level-labels.npy", "Slice_level_labels.npy"),  # figshare, SPGC
}


def read_covid_ct_md(
    root: Path,
    *,
    name: str = "covid_ct_md",
    labels: str = "updated-1",
    labelled_normals: int | None = 30,
    exclude: Collection[str] = (),
) -> Cohort:
    """Return the scans below ``root`` with their classes and slice labels. No pixel is read.

    ``labels``: updated-1 (corrected) or original. ``labelled_normals``: the first so many Normal scans in numeric order
    count as slice-labelled, all their slices Normal (section 2 of the paper); None = all. ``exclude``: scan ids to
    leave out, before the first Normal scans are counted. Raises CohortError.
    """
    if not root.is_dir():
        raise CohortError(
            f"data.root={root} is not a folder. Give the folder that holds the class folders (such as 'COVID-19 "
            "Cases') and Index.csv."
        )
    folders = _class_folders(root)
    infected = _infected_slices(root, labels)
    paths = {label: [f for folder in folders[label] for f in _scan_folders(folder)] for label in SPGC_CLASSES}
    known = {path.name for found in paths.values() for path in found}
    refuse_unknown(exclude, known)
    scans: list[ScanRecord] = []
    for label in SPGC_CLASSES:
        kept = [path for path in paths[label] if path.name not in exclude]
        for position, path in enumerate(kept):
            row = infected.get(path.name.lower())
            if row is not None and row[0] != label:
                raise CohortError(
                    f"{path.name} lies in a folder of class {label}, but Index.csv says {row[0]}. One of the two is "
                    "wrong: labels would be too. Compare them with the published set."
                )
            normal = label == SPGC_CLASSES[0] and (labelled_normals is None or position < labelled_normals)
            scans.append(
                ScanRecord(
                    path.name, path.name, path, label, normal or row is not None, None if row is None else row[1]
                )
            )
    return Cohort(name, root, SPGC_CLASSES, tuple(scans))


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Find the folders of each class in ``root`` or one level below, by prefix and ignoring case."""
    children = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name))
    for level in (children, [g for child in children for g in sorted(child.iterdir()) if g.is_dir()]):
        found = {
            label: [p for p in level if p.name.lower().startswith(prefix)] for label, prefix in _CLASS_PREFIXES.items()
        }
        # at the second level a scan's own folder (cap001) begins like a class: those hold files, not folders
        found = {label: [p for p in folders if _scan_folders(p)] for label, folders in found.items()}
        if any(found.values()):
            return found
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
        other = next(name for name in _LABEL_FILES if name != labels)
        hint = f" data.labels={other} is there." if _find(root, _LABEL_FILES[other]) else ""
        raise CohortError(
            f"{index} is there, but {' or '.join(_LABEL_FILES[labels])} (data.labels={labels}) is not beside it.{hint} "
            "Without the array no slice has a label."
        )
    array = np.load(array_path, allow_pickle=False)
    with index.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if any(row.values())]
    missing = {"Diagnosis", "Folder/ID"} - set(rows[0] if rows else ())
    if missing:
        raise CohortError(f"{index} lacks the columns {sorted(missing)}. Use the file as published.")
    if array.ndim != 2 or len(array) != len(rows):
        raise CohortError(
            f"{index} lists {len(rows)} scans, but {array_path.name} has the shape {array.shape}: a row of labels "
            "belongs to a line by its position, so they must be as many. Use both files of one release."
        )
    # by position in the file: `Label Index` skips 43
    return {
        row["Folder/ID"].strip().lower(): (_class_of(row["Diagnosis"], index), values != 0)
        for row, values in zip(rows, array, strict=True)
    }


def _class_of(diagnosis: str, index: Path) -> str:
    for label, prefix in _CLASS_PREFIXES.items():
        if diagnosis.strip().lower().startswith(prefix):
            return label
    raise CohortError(f"{index}: the diagnosis {diagnosis!r} is none of {', '.join(SPGC_CLASSES)}. Correct the line.")


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files in ``root``, one level below or one above (the sample keeps them beside)."""
    wanted = {name.lower() for name in names}
    below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in (root, *below, root.resolve().parent):
        for path in sorted(folder.iterdir()):
            if path.name.lower() in wanted and path.is_file():
                return path
    return None


def refuse_unknown(exclude: Collection[str], known: set[str]) -> None:
    """Raise CohortError where a scan is to be left out that is not there."""
    unknown = sorted(set(exclude) - known)
    if unknown:
        raise CohortError(
            f"data.exclude names {', '.join(unknown)}, which the cohort does not have. Correct the names."
        )
