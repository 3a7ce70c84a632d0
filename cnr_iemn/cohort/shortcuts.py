"""What a scan shows that must not tell its class: how it was taken, and everything outside the lungs."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.cohort.findings import kind_of
from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.ct.acquisition import CODES, Acquisition
from cnr_iemn.ct.lungs.rules import DENSE_PLEURA

FEWEST = 5
"""Scans that must share a kernel, scanner or transfer syntax for it to be a shortcut."""
_NUMBERS = {
    "field of view, mm": "field_of_view_mm",
    "slice thickness, mm": "slice_thickness_mm",
    "tube voltage, kV": "kvp",
    "tube current, mA": "tube_current_ma",
    "bits stored": "bits_stored",
    "bytes before the pixels": "header_bytes",
}
_EVERY = 8  # slices: a sample of them is enough for a mean
_RING = 2  # pixels along the image's border


def shortcuts(store: SliceStore, scan_ids: Iterable[str]) -> pd.DataFrame:
    """Return one row a scan, index scan_id, float64: number of slices, spacing in mm, lung litres, mean grey of the
    image's border and of all that is not lung (0 to 255), how it was taken and stored, and 0 or 1 for each kernel,
    manufacturer, model and transfer syntax of at least FEWEST scans, and for each finding that preparation noted.

    NaN where something is not known: spacing, or what only DICOM files tell. Numbers within a finding do not make it
    another one. Dense tissue at the pleura is left out: that is disease, not a way to take a scan.
    """
    rows: dict[str, dict[str, float]] = {}
    taken = {}
    for scan_id in scan_ids:
        scan = store.scan(scan_id)
        grey, lungs = store.grey(scan_id)[::_EVERY], store.lungs(scan_id)[::_EVERY]
        step, row, column = scan.spacing_mm
        taken[scan_id] = store.acquisition(scan_id)
        rows[scan_id] = {
            "slices": float(scan.n_slices),
            "step, mm": step,
            "row spacing, mm": row,
            "column spacing, mm": column,
            "lung litres": scan.lung_litres,
            **{name: getattr(taken[scan_id], field) for name, field in _NUMBERS.items()},
            "border grey": float(_border(grey).mean()),
            "grey outside the lungs": float(grey[lungs == 0].mean()),
            **{f"finding: {kind_of(finding)}": 1.0 for finding in scan.findings if not finding.endswith(DENSE_PLEURA)},
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("scan_id")
    found = [name for name in table if str(name).startswith("finding: ")]
    table = table.fillna(dict.fromkeys(found, 0.0))
    return table.join([_shares(field, taken) for field in CODES]).astype(np.float64)


def _shares(field: str, taken: Mapping[str, Acquisition]) -> pd.DataFrame:
    """Return 1 for the scans that have each frequent value of a code, 0 for the others, NaN where it is not known."""
    codes = pd.Series({scan_id: getattr(each, field) for scan_id, each in taken.items()}, dtype="object")
    counts = codes.value_counts()
    frequent = sorted(counts.index[counts >= FEWEST])
    name = field.replace("_", " ")
    columns = {f"{name} {code}": (codes == code).astype(float).where(codes.notna()) for code in frequent}
    return pd.DataFrame(columns, codes.index)


def _border(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of the ring along the border of each slice, uint8 [n]."""
    ring = np.ones(grey.shape[1:], dtype=bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    return grey[:, ring]
