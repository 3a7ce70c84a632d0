"""One split by patient for both stages, stratified by class and by slice-labelled or not.

The counts of the organisers' split follow from a share of 0.325, floored per class and, nested in it, within the
slice-labelled scans of each class: 55/19/24 of 171/60/76 for validation, 17/8/9 of them slice-labelled.
"""

import csv
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.errors import CohortError
from cnr_iemn.records import SCHEMA_VERSION, TRAINING, VALIDATION

SPLIT_COLUMNS = ("schema_version", "scan_id", "patient_id", "label", "slice_labelled", "split")


def make_split(cohort: Cohort, *, validation: float, seed: int) -> dict[str, str]:
    """Return ``training`` or ``validation`` by scan id. ``validation``: share of the patients of each class, 0 to 1.

    Of each class floor(share x patients) are drawn, floor(share x slice-labelled patients) of them slice-labelled. All
    scans of a patient fall on one side. The draw of one class does not depend on the others.
    """
    chosen: set[str] = set()
    for label, strata in _strata(cohort).items():
        rng = np.random.default_rng([seed, cohort.classes.index(label)])
        n_class = math.floor(round(validation * sum(map(len, strata.values())), 9))
        n_labelled = math.floor(round(validation * len(strata[True]), 9))
        for labelled, n in ((True, n_labelled), (False, n_class - n_labelled)):
            order = rng.permutation(len(strata[labelled]))
            chosen.update(strata[labelled][k] for k in order[:n])
    return {scan.scan_id: VALIDATION if scan.patient_id in chosen else TRAINING for scan in cohort.scans}


def make_folds(cohort: Cohort, split: Mapping[str, str], *, folds: int, seed: int) -> dict[str, int]:
    """Return the fold, 0 to folds - 1, of every training scan: by patient, stratified by class x slice-labelled.

    Validation scans belong to no fold and are not in the result.
    """
    fold_of: dict[str, int] = {}
    start = 0  # strata are dealt one after the other, so that folds stay equal in size overall
    for label, strata in _strata(cohort, only={s for s, side in split.items() if side == TRAINING}).items():
        rng = np.random.default_rng([seed, cohort.classes.index(label), folds])
        for labelled in (True, False):
            for position, k in enumerate(rng.permutation(len(strata[labelled]))):
                fold_of[strata[labelled][k]] = (start + position) % folds
            start += len(strata[labelled])
    return {scan.scan_id: fold_of[scan.patient_id] for scan in cohort.scans if split[scan.scan_id] == TRAINING}


def split_csv(cohort: Cohort, split: Mapping[str, str]) -> str:
    """Return the text of split.csv, one line for each scan in the cohort's order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    for scan in cohort.scans:
        labelled = str(scan.slice_labelled).lower()
        writer.writerow((SCHEMA_VERSION, scan.scan_id, scan.patient_id, scan.label, labelled, split[scan.scan_id]))
    return text.getvalue()


def split_sha256(text: str) -> str:
    """Return the hash by which predictions name their split."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_split(path: Path, cohort: Cohort) -> dict[str, str]:
    """Return the split in a file with the columns scan_id and split. Raises CohortError where it does not fit."""
    if not path.is_file():
        raise CohortError(
            f"The split file {path} does not exist. Give the path of a split.csv, or data.split.file=null."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"scan_id", "split"} <= set(rows[0]):
        raise CohortError(f"{path} is not a split: it needs the columns scan_id and split and a line for each scan.")
    ids = [row["scan_id"] for row in rows]
    split = {row["scan_id"]: row["split"] for row in rows}
    wrong = {
        "listed twice": sorted({i for i in ids if ids.count(i) > 1}),
        "in the cohort but not in the file": sorted({s.scan_id for s in cohort.scans} - set(ids)),
        "in the file but not in the cohort": sorted(set(ids) - {s.scan_id for s in cohort.scans}),
        f"neither {TRAINING} nor {VALIDATION}": sorted(i for i, s in split.items() if s not in (TRAINING, VALIDATION)),
    }
    problems = [f"{what}: {_few(scans)}" for what, scans in wrong.items() if scans]
    if not problems:
        sides: dict[str, set[str]] = defaultdict(set)
        for scan in cohort.scans:
            sides[scan.patient_id].add(split[scan.scan_id])
        problems = [f"patient {p} on both sides" for p, found in sides.items() if len(found) > 1]
    if problems:
        raise CohortError(
            f"The split {path} does not fit the cohort {cohort.name}: {'; '.join(problems)}. Correct the file."
        )
    return split


def _strata(cohort: Cohort, only: set[str] | None = None) -> dict[str, dict[bool, list[str]]]:
    """Return the patients of each class, slice-labelled (any of their scans) or not, in the cohort's order.

    A patient with scans of several classes counts under the last of these classes.
    """
    by_patient: dict[str, list[ScanRecord]] = defaultdict(list)
    for scan in cohort.scans:
        if only is None or scan.scan_id in only:
            by_patient[scan.patient_id].append(scan)
    strata: dict[str, dict[bool, list[str]]] = {label: {True: [], False: []} for label in cohort.classes}
    for patient, scans in by_patient.items():
        label = max((scan.label for scan in scans), key=cohort.classes.index)
        strata[label][any(scan.slice_labelled for scan in scans)].append(patient)
    return strata


def _few(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
