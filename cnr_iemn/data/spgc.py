"""The split of the SPGC challenge of 2021 from a public per-scan result table, mapped to today's ids of COVID-CT-MD.

The organisers' 98 validation scans are those that every validation table in github.com/covid-vr/results lists
(COVID-VR, arXiv 2308.01433). COVID-CT-MD has lost two COVID-19 scans since, and the ids behind them moved up:

- CAP and Normal scans have the ids of 2021.
- The slice-labelled COVID-19 scans have lost P044 of 2021, which ``Label Index`` of Index.csv leaves out: today's P044
  to P054 were P045 to P055. With this rule the labels give the paper's 2,482 and 742 infected training slices.
- The second lost scan was one of the unlabelled ones, which one is not known. Today's P<k> was P<k+1> or P<k+2>.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.data.names import look_alike
from cnr_iemn.errors import CohortError
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.utils.text import listed

_ID, _CLASS = "patient", "real"
_COVID_SCANS_2021 = 171
_LOST_LABELLED = 44
_PREFIX = "P"  # of the ids of COVID-19 scans


@dataclass(frozen=True)
class SpgcSplit:
    """A split after the organisers'.

    Attributes:
        side: training or validation by scan id of the cohort.
        uncertain: Scans whose side in 2021 is not known; ``side`` has what the configuration says.
        missing: Ids of the table that no scan of the cohort can be.
    """

    side: dict[str, str]
    uncertain: tuple[str, ...]
    missing: tuple[str, ...]

    def notes(self, path: Path, uncertain: str) -> list[str]:
        """Return sentences on what the split rests on. ``uncertain``: data.split.uncertain."""
        n = sum(side == VALIDATION for side in self.side.values())
        notes = [f"Split after {path}: {n} validation scans, {len(self.side) - n} training scans."]
        if self.uncertain:
            notes.append(
                f"The side of {len(self.uncertain)} unlabelled COVID-19 scans in 2021 is not known, since their ids "
                f"have changed: {uncertain} (data.split.uncertain). {listed(self.uncertain)}."
            )
        if self.missing:
            notes.append(f"{len(self.missing)} scans of the table are not in the cohort: {listed(self.missing)}.")
        return notes


def is_result_table(path: Path) -> bool:
    """Return whether the first line of a file names the columns patient and real. False where it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            columns = {name.strip().strip('"') for name in file.readline().split(",")}
    except OSError:
        return False
    return {_ID, _CLASS} <= columns


def spgc_split(path: Path, cohort: Cohort, *, uncertain: str) -> SpgcSplit:
    """Return the split in which the scans of a result table are validation scans and all others training scans.

    Args:
        path: CSV with the columns patient (id of 2021) and real (class); others are ignored.
        cohort: COVID-CT-MD, of any release.
        uncertain: Side of the scans that may be on either.

    Raises:
        CohortError: The table is damaged, lists a scan twice, or its scans and classes are not the cohort's.
    """
    table = {scan_id: row[_CLASS] for scan_id, row in _read_table(path).items()}
    original = has_ids_of_2021(scan.label for scan in cohort.scans)
    side: dict[str, str] = {}
    open_scans: list[str] = []
    possible: set[str] = set()
    for scan in cohort.scans:
        candidates = ids_of_2021(scan.scan_id, scan.label, labelled=scan.slice_labelled, original=original)
        in_table = [table.get(candidate.lower()) for candidate in candidates]
        possible.update(candidate.lower() for candidate in candidates)
        for label in filter(None, in_table):
            if label != scan.label:
                raise CohortError(
                    f"{path}: {' or '.join(candidates)} is {label}, but {scan.scan_id} of the cohort is {scan.label}. "
                    "data.split.file must be a table of COVID-CT-MD's own scans."
                )
        if all(in_table) or not any(in_table):
            side[scan.scan_id] = VALIDATION if all(in_table) else TRAINING
        else:
            side[scan.scan_id] = uncertain
            open_scans.append(scan.scan_id)
    if not possible & set(table):
        raise CohortError(
            f"{path} lists no scan of the cohort {cohort.name}. Its ids are those of COVID-CT-MD in 2021."
        )
    missing = tuple(scan_id for scan_id in table if scan_id not in possible)
    return SpgcSplit(side, tuple(open_scans), missing)


@dataclass(frozen=True)
class PeerTable:
    """Published predictions. ``table``: index patient, columns real and ``systems``; an empty text: no prediction."""

    path: Path
    table: pd.DataFrame
    systems: tuple[str, ...]


def read_peer_table(path: Path, classes: Sequence[str]) -> PeerTable:
    """Read the predicted classes of one or several systems.

    Args:
        path: CSV with the columns patient and real. A further column is a system if it holds class names alone, in any
            case and punctuation.
        classes: Their names.

    Raises:
        CohortError: The table is damaged, lists a scan twice, or has no column of a system.
    """
    names = {look_alike(name): name for name in classes} | {"": ""}
    table = (
        pd.DataFrame(_read_table(path).values(), dtype=str)
        .fillna("")
        .set_index(_ID)
        .map(lambda text: names.get(look_alike(text)))
    )
    complete = [str(column) for column in table if table[column].notna().all() and (table[column] != "").any()]
    systems = tuple(column for column in complete if column != _CLASS)
    if not systems or _CLASS not in complete:
        raise CohortError(
            f"{path} has no column of predicted classes ({', '.join(classes)}) besides real. Give a table with one for "
            "each system."
        )
    return PeerTable(path, table[[_CLASS, *systems]], systems)


def has_ids_of_2021(labels: Iterable[str]) -> bool:
    """Return whether a copy of COVID-CT-MD has lost no scan. ``labels``: the class of each scan."""
    return sum(label == SPGC_CLASSES[1] for label in labels) == _COVID_SCANS_2021


def ids_of_2021(scan_id: str, label: str, *, labelled: bool, original: bool) -> list[str]:
    """Return the ids that a scan may have had in 2021.

    Args:
        scan_id: In the present copy.
        label: Class.
        labelled: Whether it has slice labels.
        original: Whether the copy is of 2021.
    """
    number = scan_id.removeprefix(_PREFIX)
    if original or label != SPGC_CLASSES[1] or not number.isdecimal():
        return [scan_id]
    if labelled:
        return [f"{_PREFIX}{int(number) + (int(number) >= _LOST_LABELLED):03d}"]
    return [f"{_PREFIX}{int(number) + shift:03d}" for shift in (1, 2)]


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the row of each scan by its id in lower case. Raises CohortError where one is listed twice."""
    table: dict[str, dict[str, str]] = {}
    for line, row in read_rows(path, {_ID, _CLASS}, None):
        key = row[_ID].lower()
        if key in table:
            raise CohortError(f"{path}:{line}: {row[_ID]} is listed twice. Use the table as published.")
        table[key] = row
    return table
