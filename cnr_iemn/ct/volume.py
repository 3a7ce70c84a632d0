"""What a scan is after reading: Hounsfield units in order, and what was found on the way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.acquisition import UNKNOWN, Acquisition

MAX_VOXELS = 2**31


@dataclass(frozen=True)
class Volume:
    """One CT scan.

    ``hu``: int16 [slices, rows, columns], Hounsfield units from -1024 up, head first. ``spacing_mm``: distance between
    slices, between rows, between columns. ``z_mm``: float64 [slices], position along the slices' normal, which points
    to the head; descending. ``findings``: what a reader should know, in sentences. ``phantom``: a slice says
    QualityControlImage (0028,0300) = YES. ``source_sha256``: hash over the sorted hashes of the files, so that neither
    names nor order change it; of a NIfTI file, its own. ``acquisition``: of DICOM files; its field of
    view is not filled in.
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    findings: tuple[str, ...]
    phantom: bool
    source_sha256: str
    acquisition: Acquisition = UNKNOWN
