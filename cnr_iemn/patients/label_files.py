"""True classes of new scans from CSV files, as the test sets of SPGC have them: ``Study,Label``, T1-001 for T1_001."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cnr_iemn.cohort.csv_rows import Problems, read_rows
from cnr_iemn.errors import CohortError

TOGETHER = "together"
"""Name of all sets as one."""


def read_labels(paths: Sequence[Path], scan_ids: Iterable[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return set, patient_id and label of every scan, index scan_id, file after file.

    ``paths``: one CSV a set, with the columns Study and Label and, where a patient has several scans, patient_id. The
    set is called as the file, without "labels" at its end. ``scan_ids``: all scans that need a label. Ids are matched
    without regard to case and to which punctuation stands where, labels to case and punctuation. Raises CohortError
    with every label without a scan, scan without a label, double and unknown label, and its line.
    """
    scans = _folded(scan_ids)
    labels = _folded_classes(classes)
    found = [
        f"  the scans {' and '.join(same)} cannot be told apart in a label file: rename one"
        for same in scans.values()
        if len(same) > 1
    ]
    rows: dict[str, dict[str, str]] = {}
    given: dict[str, str] = {}
    for path, name in zip(paths, _set_names(paths), strict=True):
        problems = Problems(path)
        for line, row in read_rows(path, {"Study", "Label"}, {"patient_id"}):
            key, label = fold_id(row["Study"]), labels.get(_letters(row["Label"]))
            if label is None:
                problems.add(line, f"label {row['Label']!r} is none of {', '.join(classes)}")
            if key not in scans:
                problems.add(line, f"no prediction is of scan {row['Study']!r}")
            elif key in given:
                problems.add(line, f"scan {row['Study']!r} has its label at {given[key]}")
            elif label is not None:
                scan_id = scans[key][0]
                patient = row.get("patient_id") or scan_id
                rows[scan_id] = {"set": name, "patient_id": patient, "label": label}
            given.setdefault(key, f"{path.name}:{line}")
        found += problems.found
    found += [f"  scan {same[0]} has no label" for key, same in scans.items() if key not in given]
    if found:
        shown = "\n".join(found)
        raise CohortError(
            f"{len(found)} problem(s) between predictions and labels ({', '.join(map(str, paths))}):\n{shown}\nNothing "
            "was scored. Correct them, or have predict.py answer for the labelled scans alone."
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scan_id")


def fold_id(scan_id: str) -> str:
    """Return an id in lower case with every run of punctuation as one dash: T1_001 and T1-001 are one scan."""
    return re.sub(r"[\W_]+", "-", scan_id.casefold()).strip("-")


def _letters(label: str) -> str:
    return re.sub(r"[\W_]+", "", label.casefold())


def _folded(scan_ids: Iterable[str]) -> Mapping[str, list[str]]:
    folded: dict[str, list[str]] = defaultdict(list)
    for scan_id in scan_ids:
        folded[fold_id(scan_id)].append(scan_id)
    return folded


def _folded_classes(classes: Sequence[str]) -> dict[str, str]:
    folded = {_letters(name): name for name in classes}
    if len(folded) < len(classes):
        raise CohortError(
            f"The classes {', '.join(classes)} differ in case or punctuation alone, so that a label file cannot tell "
            "them apart. Give the classes of the study other names."
        )
    return folded


def _set_names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each file's set. Raises CohortError where two are the same."""
    names = [re.sub(r"[-_ ]*labels?$", "", path.stem, flags=re.IGNORECASE) or path.stem for path in paths]
    folded = [name.casefold() for name in names]
    if len(set(folded)) < len(folded) or TOGETHER in folded:
        raise CohortError(
            f"The label files {', '.join(map(str, paths))} give the sets {', '.join(names)}: each needs a name of its "
            f"own, other than {TOGETHER}. Rename the files."
        )
    return names
