"""One split by patient for both stages, stratified by class and by slice labels.

The counts of the organisers' split follow from a share of 0.325, rounded down for each class and for the slice-labelled
scans of each class: 55/19/24 of 171/60/76 for validation, 17/8/9 of them slice-labelled.
"""

import csv
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import CohortError
from cnr_iemn.schemas import NO_CLASS, NO_SIDE, SCHEMA_VERSION, TRAINING, VALIDATION
from cnr_iemn.utils.exclusions import offer_exclusion
from cnr_iemn.utils.text import MAX_NAMES, visible

SPLIT_COLUMNS = ("schema_version", "scan_id", "patient_id", "label", "slice_labelled", "split")


def make_split(cohort: Cohort, *, validation: float, seed: int) -> dict[str, str]:
    """Return ``training`` or ``validation`` by scan id. ``validation``: share of the patients of each class, 0 to 1.

    A scan without a class is on no side (NO_SIDE). Of each class floor(share x patients) are drawn, floor(share x
    slice-labelled patients) of them slice-labelled. All scans of a patient are on one side. The draws of the classes
    are independent.
    """
    validation_patients: set[str] = set()
    for label, strata in _strata(cohort).items():
        rng = np.random.default_rng([seed, cohort.classes.index(label)])
        n_class = math.floor(round(validation * sum(map(len, strata.values())), 9))
        n_labelled = math.floor(round(validation * len(strata[True]), 9))
        for labelled, n in ((True, n_labelled), (False, n_class - n_labelled)):
            order = rng.permutation(len(strata[labelled]))
            validation_patients.update(strata[labelled][k] for k in order[:n])
    return {
        scan.scan_id: _side(scan, VALIDATION if scan.patient_id in validation_patients else TRAINING)
        for scan in cohort.scans
    }


def _side(scan: ScanRecord, side: str) -> str:
    return NO_SIDE if scan.label == NO_CLASS else side


def make_folds(cohort: Cohort, split: Mapping[str, str], *, folds: int, seed: int) -> dict[str, int]:
    """Return the fold, 0 to folds - 1, of every training scan: by patient, stratified by class and slice labels.

    Validation scans belong to no fold and are not in the result.
    """
    fold_of: dict[str, int] = {}
    offset = 0  # each stratum continues where the last one ended, so that folds have equal sizes overall
    for label, strata in _strata(cohort, only={s for s, side in split.items() if side == TRAINING}).items():
        rng = np.random.default_rng([seed, cohort.classes.index(label), folds])
        for labelled in (True, False):
            for position, k in enumerate(rng.permutation(len(strata[labelled]))):
                fold_of[strata[labelled][k]] = (offset + position) % folds
            offset += len(strata[labelled])
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
    """Return the hash that identifies the split in predictions."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_split(path: Path, cohort: Cohort) -> dict[str, str]:
    """Return the split in a file with the columns scan_id and split.

    A scan without a class is on no side, and the file may omit it. Raises CohortError where the file does not fit.
    """
    rows = [row for _, row in read_rows(path, {"scan_id", "split"}, None)]
    classed = {scan.scan_id for scan in cohort.scans if scan.label != NO_CLASS}
    unclassed = {scan.scan_id for scan in cohort.scans} - classed
    ids = [row["scan_id"] for row in rows]
    split = {row["scan_id"]: row["split"] for row in rows}
    faults = {
        "listed twice": sorted({i for i in ids if ids.count(i) > 1}),
        "in the cohort but not in the file": sorted(classed - set(ids)),
        "in the file but not in the cohort": sorted(set(ids) - classed - unclassed),
        f"neither {TRAINING} nor {VALIDATION}": sorted(
            i for i, s in split.items() if s not in (TRAINING, VALIDATION) and i not in unclassed
        ),
        "without a class, so on no side": sorted(i for i, s in split.items() if s != NO_SIDE and i in unclassed),
    }
    problems = [f"{fault}: {_few(scans)}" for fault, scans in faults.items() if scans]
    if not problems:
        sides: dict[str, set[str]] = defaultdict(set)
        for scan in cohort.scans:
            if scan.scan_id in classed:
                sides[scan.patient_id].add(split[scan.scan_id])
        problems = [f"patient {p} on both sides" for p, patient_sides in sides.items() if len(patient_sides) > 1]
    if problems:
        raise CohortError(
            f"The split {path} does not fit the cohort {cohort.name}: {'; '.join(problems)}. Correct the file."
        )
    return dict.fromkeys(unclassed, NO_SIDE) | split


def _strata(cohort: Cohort, only: set[str] | None = None) -> dict[str, dict[bool, list[str]]]:
    """Return the patients of each class, slice-labelled (any of their scans) or not, in the cohort's order.

    A patient with scans of several classes counts under the last of these classes; a scan without a class is ignored.
    """
    by_patient: dict[str, list[ScanRecord]] = defaultdict(list)
    for scan in cohort.scans:
        if scan.label != NO_CLASS and (only is None or scan.scan_id in only):
            by_patient[scan.patient_id].append(scan)
    strata: dict[str, dict[bool, list[str]]] = {label: {True: [], False: []} for label in cohort.classes}
    for patient, scans in by_patient.items():
        label = max((scan.label for scan in scans), key=cohort.classes.index)
        strata[label][any(scan.slice_labelled for scan in scans)].append(patient)
    return strata


def _few(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def require_distinct(store: SliceStore, side: Mapping[str, str]) -> None:
    """Raise CohortError where scans with identical grey pixels are on different sides.

    ``side``: of each scan_id: training, validation, or also the fold. NO_SIDE conflicts with no side.
    """
    by_pixels: dict[str, list[str]] = defaultdict(list)
    for scan_id in (key for key, value in side.items() if value != NO_SIDE):
        by_pixels[store.scan(scan_id).grey_sha256].append(scan_id)
    groups = [copies for copies in by_pixels.values() if len({side[scan_id] for scan_id in copies}) > 1]
    if groups:
        descriptions = {copies[0]: ", ".join(f"{scan_id} ({side[scan_id]})" for scan_id in copies) for copies in groups}
        path = store.root / "copies.txt"
        lines = "\n".join(f"  {visible(line)}" for line in list(descriptions.values())[:MAX_NAMES])
        if len(descriptions) > MAX_NAMES:
            lines += f"\n  and {len(descriptions) - MAX_NAMES} others: {path}"
        exclusion = offer_exclusion(
            path, {scan_id: descriptions[copies[0]] for copies in groups for scan_id in copies[1:]}
        )
        raise CohortError(
            f"Scans of different names have the same pixels and are on different sides of the split:\n{lines}\nA "
            "network would recognise its training scans, and every metric would be too good. Leave the copies out "
            f"({exclusion}, in another study), or give them one patient_id in a manifest."
        )
