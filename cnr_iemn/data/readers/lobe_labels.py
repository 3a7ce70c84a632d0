"""Which lobes of a slice are diseased, as COVID-CT-MD's readers marked them in its slice-labelled scans."""

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from cnr_iemn.constants import LOBES
from cnr_iemn.data.cohort import ScanRecord
from cnr_iemn.data.readers.covid_ct_md import DAMAGED_HEADER
from cnr_iemn.errors import CohortError


def read_lobes(path: Path, infected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the diseased lobes of the slices in the label arrays. The file is memory-mapped and never unpickled.

    Args:
        path: A .npy file, numbers [scans, slices, lobes], 0 or 1.
        infected: The slice labels, bool [scans, slices]: a slice is infected where one of its lobes is.

    Returns:
        bool [scans, slices, lobes].

    Raises:
        CohortError: The file is no such array, cannot be read, or contradicts the slice labels.
    """
    try:
        array = open_memmap(path, mode="r")
    except (*DAMAGED_HEADER, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise CohortError(f"{path} cannot be read as lobe labels ({reason}). Use it as published.") from error
    expected = (*infected.shape, len(LOBES))
    if array.shape != expected or array.dtype.kind not in "biuf":
        raise CohortError(
            f"{path} has the shape {array.shape} and the type {array.dtype}, but lobe labels of these scans are "
            f"numbers of the shape {expected}. Use both label arrays of one release."
        )
    if not np.isin(array, (0, 1)).all():
        raise CohortError(f"{path} holds values that are neither 0 nor 1. Use it as published.")
    lobes = np.array(array == 1)
    wrong = np.argwhere(lobes.any(axis=2) != infected)
    if len(wrong):
        row, column = (int(k) for k in wrong[0])
        raise CohortError(
            f"{path} contradicts the slice labels in {len(wrong)} slices, the first in row {row}, column {column} "
            "(from 0): a slice is infected where one of its lobes is. Use both label arrays of one release."
        )
    return lobes


def lobe_labels(scan: ScanRecord, n_slices: int) -> NDArray[np.float32]:
    """Return 1 where a lobe of a slice is diseased, 0 where it is not and NaN where nobody knows.

    A scan whose slices are all Normal has no diseased lobe.

    Args:
        scan: Its labels fit the number of slices (``ScanRecord.slice_labels``).
        n_slices: Number of slices that were read.

    Returns:
        float32 [n_slices, lobes].
    """
    if not scan.slice_labelled or scan.weak or (scan.infected is not None and scan.lobes is None):
        return np.full((n_slices, len(LOBES)), np.nan, dtype=np.float32)
    if scan.lobes is None:
        return np.zeros((n_slices, len(LOBES)), dtype=np.float32)
    return scan.lobes[:n_slices].astype(np.float32)
