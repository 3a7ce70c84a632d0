"""A cohort: its scans and their classes, slice labels, and groups of slices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.data.demographics.groups import NOTHING_DECLARED, DeclaredGroups
from cnr_iemn.data.names import file_key, id_fault
from cnr_iemn.errors import CohortError
from cnr_iemn.schemas import NO_CLASS
from cnr_iemn.utils.shell_words import override, shell

UNLABELLED = -1
"""Class index of a slice without a label."""
FROM_PATIENT = "from_patient"
"""``data.slice_labels``: slices without a reader's label have their scan's class."""


@dataclass(frozen=True)
class ScanRecord:
    """One scan of a cohort, before its pixels are read.

    ``scan_id``: the name of its folder or its id in a manifest, unique in the cohort. ``label``: its class, NO_CLASS
    where it is unknown. ``slice_labelled``: its slices have labels, a reader's or ``weak`` ones. ``infected``: bool,
    one value for each slice, head first, padded with False; None where all slices are Normal. ``images``: the slices
    where they are image files. ``weak``: each slice with lung has the scan's class. ``declared``: of patient and site.
    ``lobes``: which of ``constants.LOBES`` are diseased in each slice, bool [slices, lobes]; None where it is not read.
    """

    scan_id: str
    patient_id: str
    path: Path
    label: str
    slice_labelled: bool = False
    infected: NDArray[np.bool_] | None = None
    images: ImageStack | None = None
    weak: bool = False
    declared: DeclaredGroups = NOTHING_DECLARED
    lobes: NDArray[np.bool_] | None = None

    @property
    def one_image(self) -> bool:
        """Whether the scan is a single image; its class is then a slice label."""
        return self.images is not None and len(self.images.files) == 1

    @property
    def source(self) -> Path | ImageStack:
        """The source for ``prepare_scan``."""
        return self.images or self.path

    def slice_labels(
        self, n_slices: int, classes: tuple[str, ...], lungs: Callable[[], NDArray[np.bool_]] | None = None
    ) -> NDArray[np.int64] | None:
        """Return the class index of each slice, None where none has a label.

        An infected slice has the scan's class, every other slice the cohort's first class (Normal). Weak labels: a
        slice with lung has the scan's class; one without is UNLABELLED whatever the class, since it shows no disease.

        Args:
            n_slices: Number of slices that were read.
            classes: The cohort's classes in order.
            lungs: Returns whether each slice shows lung, bool [n_slices]; called for weak labels only.

        Returns:
            int64 [n_slices] of indices into ``classes`` or UNLABELLED.

        Raises:
            CohortError: The labels cannot belong to a scan of this many slices.
        """
        if not self.slice_labelled:
            return None
        if self.weak:
            if lungs is None:
                raise ValueError(f"{self.scan_id} has weak labels, which need its lungs.")
            return np.where(lungs(), classes.index(self.label), UNLABELLED).astype(np.int64)
        labels = np.zeros(n_slices, dtype=np.int64)
        if self.infected is None:
            return labels
        extra = np.flatnonzero(self.infected[n_slices:])
        if n_slices > len(self.infected) or len(extra):
            row = f"its row of labels holds {len(self.infected)} values"
            contradiction = f"its labels name slice {n_slices + int(extra[-1])}" if len(extra) else row
            exclusion = shell(override("data.exclude", [self.scan_id]))
            raise CohortError(
                f"{self.scan_id}: {n_slices} slices were read, but {contradiction}. "
                "Slices are missing or the labels belong to another scan: every label may be shifted. Complete "
                f"the folder, or leave the scan out with {exclusion}."
            )
        labels[self.infected[:n_slices]] = classes.index(self.label)
        return labels


@dataclass(frozen=True)
class Cohort:
    """All scans of a cohort in a stable order. ``classes``: names in the order used everywhere, healthy first.

    ``root``: its folder, or its manifest. ``split``: training or validation by scan_id, where the cohort defines it.
    ``notes``: remarks of the reader for the user, sentences.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    scans: tuple[ScanRecord, ...]
    split: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scans: dict[str, ScanRecord] = {}
        for scan in self.scans:
            fault = id_fault(scan.scan_id)
            if fault:
                raise CohortError(f"{scan.path}: {fault}. Rename it.")
            first = scans.setdefault(file_key(scan.scan_id), scan)
            if first is not scan:
                same = first.scan_id == scan.scan_id
                second = "" if same else f" and {scan.scan_id}, which some file systems do not tell apart"
                raise CohortError(
                    f"Two scans are named {first.scan_id}{second}: {first.path} and {scan.path}. The name of a scan is "
                    "that of its folder, or its scan_id in a manifest. Rename one of them."
                )

    def scan(self, scan_id: str) -> ScanRecord:
        """Return the scan of this id. Raises KeyError."""
        return next(scan for scan in self.scans if scan.scan_id == scan_id)

    @property
    def counts(self) -> dict[str, int]:
        """Number of scans of each class, in class order."""
        return {name: sum(scan.label == name for scan in self.scans) for name in self.classes}

    def with_weak_labels(self) -> "Cohort":
        """Return the cohort with a label for the slices of every scan that has a class.

        A reader's labels stay. All other scans of several slices, healthy ones too, get weak labels.
        """
        scans = tuple(
            replace(scan, slice_labelled=True, weak=True) if _lacks_labels(scan) else scan for scan in self.scans
        )
        n = sum(scan.weak for scan in scans)
        note = (
            f"Weak slice labels (data.slice_labels={FROM_PATIENT}): every slice with lung of {n} scans has its scan's "
            "class, without a reader's confirmation; slices without lung are not used. Metrics of slices are measured "
            "against these labels."
        )
        return replace(self, scans=scans, notes=(*self.notes, note) if n else self.notes)


def _lacks_labels(scan: ScanRecord) -> bool:
    return scan.label != NO_CLASS and scan.infected is None and not scan.one_image


def assign_slice_groups(n_slices: int, n_groups: int) -> NDArray[np.int64]:
    """Return the group of each slice, int64 [n_slices], ascending from 0 at the head: floor(n_groups * i / n_slices).

    Groups differ by at most one slice (paper, sections 2.1.2 and 2.2: "equalized five regions", 20 groups of "the same
    number of slices"). A scan with fewer slices than groups leaves groups empty. Raises ValueError where either number
    is below 1.
    """
    if n_slices < 1 or n_groups < 1:
        raise ValueError(f"n_slices={n_slices} and n_groups={n_groups} must both be at least 1.")
    return np.arange(n_slices, dtype=np.int64) * n_groups // n_slices
