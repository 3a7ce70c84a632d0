"""What a scan shows that must not tell its class: how it was taken, and everything outside the lungs."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.ct.lungs.rules import DENSE_PLEURA

_EVERY = 8  # slices: a sample of them is enough for a mean
_RING = 2  # pixels along the image's border


def shortcuts(store: SliceStore, scan_ids: Iterable[str]) -> pd.DataFrame:
    """Return one row a scan, index scan_id, float64: number of slices, spacing in mm, lung litres, mean grey of the
    image's border and of all that is not lung (0 to 255), and 0 or 1 for each finding that preparation noted.

    Spacing is NaN where it is not known; numbers within a finding do not make it another one. Dense tissue at the
    pleura is left out: that is disease, not a way to take a scan.
    """
    rows: dict[str, dict[str, float]] = {}
    for scan_id in scan_ids:
        scan = store.scan(scan_id)
        grey, lungs = store.grey(scan_id)[::_EVERY], store.lungs(scan_id)[::_EVERY]
        step, row, column = scan.spacing_mm
        rows[scan_id] = {
            "slices": float(scan.n_slices),
            "step, mm": step,
            "row spacing, mm": row,
            "column spacing, mm": column,
            "lung litres": scan.lung_litres,
            "border grey": float(_border(grey).mean()),
            "grey outside the lungs": float(grey[lungs == 0].mean()),
            **{
                f"finding: {re.sub(r'[0-9.]+', '#', finding)}": 1.0
                for finding in scan.findings
                if not finding.endswith(DENSE_PLEURA)
            },
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("scan_id")
    found = [name for name in table if str(name).startswith("finding: ")]
    return table.fillna(dict.fromkeys(found, 0.0)).astype(np.float64)


def _border(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of the ring along the border of each slice, uint8 [n]."""
    ring = np.ones(grey.shape[1:], dtype=bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    return grey[:, ring]
