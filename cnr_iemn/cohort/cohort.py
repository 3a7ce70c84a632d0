"""A cohort: which scans there are, of which class, and which slices a reader labelled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.images import ImageStack
from cnr_iemn.errors import CohortError


@dataclass(frozen=True)
class ScanRecord:
    """One scan of a cohort, before its pixels are read.

    ``scan_id``: its folder's name or as a manifest says, unique in the cohort. ``slice_labelled``: a reader labelled
    its slices. ``infected``: bool, one value for each slice head first, padded with False; None where all slices are
    Normal. ``images``: the slices where they are image files.
    """

    scan_id: str
    patient_id: str
    path: Path
    label: str
    slice_labelled: bool = False
    infected: NDArray[np.bool_] | None = None
    images: ImageStack | None = None

    @property
    def source(self) -> Path | ImageStack:
        """What ``prepare_scan`` reads."""
        return self.images or self.path

    def slice_labels(self, n_slices: int, classes: tuple[str, ...]) -> NDArray[np.int64] | None:
        """Return the class index of each slice, int64 [n_slices], or None where no reader labelled them.

        An infected slice has the scan's class, every other slice the cohort's first class (Normal).
        Raises CohortError where the labels cannot belong to a scan of this many slices.
        """
        if not self.slice_labelled:
            return None
        labels = np.zeros(n_slices, dtype=np.int64)
        if self.infected is None:
            return labels
        if n_slices > len(self.infected) or self.infected[n_slices:].any():
            last = int(np.flatnonzero(self.infected)[-1])
            raise CohortError(
                f"{self.scan_id}: {n_slices} slices were read, but its row of labels holds {len(self.infected)} values "
                f"and names slice {last} infected. Slices are missing or the row belongs to another scan: every label "
                f"may be shifted. Complete the folder, or leave the scan out with 'data.exclude=[{self.scan_id}]'."
            )
        labels[self.infected[:n_slices]] = classes.index(self.label)
        return labels


@dataclass(frozen=True)
class Cohort:
    """All scans of a cohort in a stable order. ``classes``: names in the order used everywhere, healthy first.

    ``root``: its folder, or its manifest. ``split``: training or validation by scan id where the cohort brings its own.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    scans: tuple[ScanRecord, ...]
    split: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        seen: dict[str, ScanRecord] = {}
        for scan in self.scans:
            if scan.scan_id in seen:
                raise CohortError(
                    f"Two scans are named {scan.scan_id}: {seen[scan.scan_id].path} and {scan.path}. A scan is known "
                    "by its folder's name. Rename one of the folders."
                )
            seen[scan.scan_id] = scan

    def scan(self, scan_id: str) -> ScanRecord:
        """Return the scan of this id. Raises KeyError."""
        return next(scan for scan in self.scans if scan.scan_id == scan_id)
