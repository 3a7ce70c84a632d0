"""What a row of the table of hazards is, and the small functions with which its folders are made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from tests.ct.conftest import Builder

Change = Callable[[Dataset, int], object]
Maker = Callable[[type[Builder], Path], object]

COPY_IT = r" Scan refused; copy it again\."


@dataclass(frozen=True)
class Hazard:
    """One folder. ``row``: the hazard; ``variant``: one of several folders that show it.

    ``make`` writes the folder P012. Reading it gives ``hu`` (by default ``expected_hu``) with exactly these
    ``findings``, or a refusal whose whole text matches ``refusal``.
    """

    row: str
    make: Maker
    variant: str = ""
    hu: Callable[[], np.ndarray] = Builder.expected_hu
    findings: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def name(self) -> str:
        return f"{self.row} [{self.variant}]" if self.variant else self.row


def all_slices(change: Change, *, signed: bool = False) -> Maker:
    """Write the usual slices after a change of every one, which is given the slice and its index."""

    def make(dicom: type[Builder], folder: Path) -> None:
        slices = dicom.make_slices(signed=signed)
        for k, ds in enumerate(slices):
            change(ds, k)
        dicom.write(folder, slices)

    return make


def one_slice(change: Callable[[Dataset], object], index: int = 5) -> Maker:
    """Write the usual slices after a change of one."""

    def make(dicom: type[Builder], folder: Path) -> None:
        slices = dicom.make_slices()
        change(slices[index])
        dicom.write(folder, slices)

    return make


def put(**values: object) -> Change:
    """Change elements of a slice, or delete those that are None."""

    def change(ds: Dataset, k: int = 0) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return change


def rewritten(change: Callable[[bytes], bytes], index: int = 23) -> Maker:
    """Write the usual slices, then change the bytes of one file: the last, which leaves no gap when it is lost."""

    def make(dicom: type[Builder], folder: Path) -> None:
        dicom.write(folder, dicom.make_slices())
        path = folder / f"IM{index:04d}.dcm"
        path.write_bytes(change(path.read_bytes()))

    return make
