"""True classes of new scans from CSV files, as the test sets of SPGC have them: ``Study,Label``, T1-001 for T1_001."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cnr_iemn.data.csv_io import Problems, problem_lines, read_rows
from cnr_iemn.data.names import look_alike
from cnr_iemn.data.spgc import is_result_table
from cnr_iemn.errors import CohortError

TOGETHER = "together"
"""Name of all sets as one."""


def read_labels(paths: Sequence[Path], scan_ids: Iterable[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return set, patient_id and label of every scan, index scan_id, file after file.

    Ids match regardless of case and of the kind of punctuation, labels regardless of case and punctuation.

    Args:
        paths: One CSV for each set, with the columns Study and Label and, where a patient has several scans,
            patient_id; or a result table of the SPGC challenge, with patient and real. The set has the name of the
            file, without "labels" at its end.
        scan_ids: All scans that need a label.
        classes: Names of the classes.

    Raises:
        CohortError: With every label without a scan, scan without a label, duplicate and unknown label, and its line.
    """
    scans = _folded(scan_ids)
    labels = _folded_classes(classes)
    faults = [
        f"  a label file cannot distinguish the scans {' and '.join(ids)}: rename one"
        for ids in scans.values()
        if len(ids) > 1
    ]
    rows: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    for path, name in zip(paths, _set_names(paths), strict=True):
        problems = Problems(path)
        for line, name_in_file, text, patient_id in _label_rows(path):
            key, label = fold_id(name_in_file), labels.get(text) or labels.get(look_alike(text))
            if label is None:
                problems.add(line, f"label {text!r} is none of {', '.join(classes)}")
            if key not in scans:
                problems.add(line, f"no prediction is of scan {name_in_file!r}")
            elif key in places:
                problems.add(line, f"scan {name_in_file!r} has its label at {places[key]}")
            elif label is not None:
                scan_id = scans[key][0]
                rows[scan_id] = {"set": name, "patient_id": patient_id or scan_id, "label": label}
            places.setdefault(key, f"{path.name}:{line}")
        faults += problems.lines
    faults += [f"  scan {ids[0]} has no label" for key, ids in scans.items() if key not in places]
    if faults:
        text = problem_lines(faults)
        raise CohortError(
            f"{len(faults)} problem(s) between predictions and labels ({', '.join(map(str, paths))}):\n{text}\nNothing "
            "was scored. Correct them, or run predict.py on the labelled scans only."
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scan_id")


def _label_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, scan, label and patient, which may be empty, of each row."""
    if is_result_table(path):
        yield from ((line, row["patient"], row["real"], "") for line, row in read_rows(path, {"patient", "real"}, None))
        return
    for line, row in read_rows(path, {"Study", "Label"}, {"patient_id"}):
        yield line, row["Study"], row["Label"], row.get("patient_id", "")


def fold_id(scan_id: str) -> str:
    """Return an id in lower case with every run of punctuation as one dash: T1_001 and T1-001 are one scan."""
    return re.sub(r"[\W_]+", "-", scan_id.casefold()).strip("-")


def _folded(scan_ids: Iterable[str]) -> Mapping[str, list[str]]:
    folded: dict[str, list[str]] = defaultdict(list)
    for scan_id in scan_ids:
        folded[fold_id(scan_id)].append(scan_id)
    return folded


def _folded_classes(classes: Sequence[str]) -> dict[str, str]:
    """Return the class by its name, and by ``look_alike`` of it where that is unique."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        by_key[look_alike(name)].append(name)
    return {key: names[0] for key, names in by_key.items() if len(names) == 1} | {name: name for name in classes}


def _set_names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each file's set. Raises CohortError where two are the same."""
    names = [re.sub(r"[-_ ]*labels?$", "", path.stem, flags=re.IGNORECASE) or path.stem for path in paths]
    folded = [name.casefold() for name in names]
    if len(set(folded)) < len(folded) or TOGETHER in folded:
        raise CohortError(
            f"The label files {', '.join(map(str, paths))} give the sets {', '.join(names)}: each needs a different "
            f"name, other than {TOGETHER}. Rename the files."
        )
    return names
