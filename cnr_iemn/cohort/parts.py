"""Equal parts of a scan along the slice axis: the regions of stage 1 and the groups of stage 2."""

import numpy as np
from numpy.typing import NDArray


def part_of_slices(n_slices: int, parts: int) -> NDArray[np.int64]:
    """Return the part of every slice, int64 [n_slices], ascending from 0 at the head: floor(parts * i / n_slices).

    Parts differ by at most one slice (paper, sections 2.1.2 and 2.2: "equalized five regions", 20 groups of "the same
    number of slices"). A scan with fewer slices than parts leaves some parts empty. Raises ValueError where either
    number is below 1.
    """
    if n_slices < 1 or parts < 1:
        raise ValueError(f"n_slices={n_slices} and parts={parts} must both be at least 1.")
    return np.arange(n_slices, dtype=np.int64) * parts // n_slices
