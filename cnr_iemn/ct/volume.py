"""What a scan is after reading: Hounsfield units in order, and what was found on the way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.acquisition import UNKNOWN, Acquisition
from cnr_iemn.errors import RefusalCode, ScanError

MAX_VOXELS = 2**31
_LEAST_MM, _MOST_MM = 0.05, 50.0
"""Between pixels and between slices: the finest scanners have 0.1, the coarsest series of single slices 20."""


def check_lengths(name: str, what: str, *lengths_mm: float) -> None:
    """Refuse distances between pixels or slices that no CT scan has; NaN, not known, passes.

    Args:
        name: What the message calls the scan or the file.
        what: What the lengths are of, for the message, such as "pixels".
        lengths_mm: The lengths in mm.

    Raises:
        ScanError: A length is below 0.05 or above 50 mm.
    """
    if any(length < _LEAST_MM or length > _MOST_MM for length in lengths_mm):
        values = " x ".join(f"{length:g}" for length in lengths_mm)
        raise ScanError(
            RefusalCode.DAMAGED_HEADER,
            f"{name}: {what} of {values} mm; CT scans have {_LEAST_MM:g} to {_MOST_MM:g}. The header is damaged or in "
            "another unit. Scan refused; export it again.",
        )


@dataclass(frozen=True)
class Volume:
    """One CT scan.

    Attributes:
        hu: Hounsfield units from -1024 up, head first, int16 [slices, rows, columns].
        spacing_mm: Distance between slices, between rows, between columns.
        z_mm: Position along the slices' normal, which points to the head, float64 [slices], descending.
        findings: What a reader should know, in sentences.
        phantom: A slice says QualityControlImage (0028,0300) = YES.
        source_sha256: Hash over the sorted hashes of the files, independent of their names; of a NIfTI file, its own.
        acquisition: Of DICOM files; its field of view is not filled in.
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    findings: tuple[str, ...]
    phantom: bool
    source_sha256: str
    acquisition: Acquisition = UNKNOWN
