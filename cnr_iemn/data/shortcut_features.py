"""Features of a scan that must not predict its class: acquisition, storage, and everything outside the lungs."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.ct.io.acquisition import CODES, Acquisition
from cnr_iemn.ct.lungs.segmentation import DENSE_PLEURA
from cnr_iemn.data.slice_store import SliceStore


def kind_of(finding: str) -> str:
    """Return a finding with # in place of its numbers: "139 ml of ..." is of the kind "# ml of ..."."""
    return re.sub(r"[0-9.]+", "#", finding)


MIN_SCANS = 5
"""Scans that must share a kernel, scanner or transfer syntax for it to be a shortcut."""
_NUMBERS = {
    "field of view, mm": "field_of_view_mm",
    "slice thickness, mm": "slice_thickness_mm",
    "tube voltage, kV": "kvp",
    "tube current, mA": "tube_current_ma",
    "bits stored": "bits_stored",
    "bytes before the pixels": "header_bytes",
}
_STEP = 8  # slices: a sample of them is enough for a mean
_RING = 2  # pixels along the image's border


def shortcuts(store: SliceStore, scan_ids: Iterable[str]) -> pd.DataFrame:
    """Return the shortcut features of stored scans, one row a scan, index scan_id, float64.

    They are: number of slices, spacing in mm, lung litres, mean grey of the image's border and outside the lungs (0 to
    255), acquisition and storage, and 0 or 1 for each kernel, manufacturer, model and transfer syntax of at least
    MIN_SCANS scans, and for each kind of finding. Unknown values are NaN: spacing, or header values of other formats
    than DICOM. The finding of dense tissue at the pleura is excluded: it is disease, not acquisition.
    """
    rows: dict[str, dict[str, float]] = {}
    acquisitions = {}
    for scan_id in scan_ids:
        scan = store.scan(scan_id)
        grey, lungs = store.grey(scan_id)[::_STEP], store.lungs(scan_id)[::_STEP]
        step, row, column = scan.spacing_mm
        acquisitions[scan_id] = store.acquisition(scan_id)
        rows[scan_id] = {
            "slices": float(scan.n_slices),
            "step, mm": step,
            "row spacing, mm": row,
            "column spacing, mm": column,
            "lung litres": scan.lung_litres,
            **{name: getattr(acquisitions[scan_id], field) for name, field in _NUMBERS.items()},
            "border grey": float(_border(grey).mean()),
            "grey outside the lungs": float(grey[lungs == 0].mean()),
            **{f"finding: {kind_of(finding)}": 1.0 for finding in scan.findings if not finding.endswith(DENSE_PLEURA)},
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("scan_id")
    finding_columns = [name for name in table if str(name).startswith("finding: ")]
    table = table.fillna(dict.fromkeys(finding_columns, 0.0))
    return table.join([_shares(field, acquisitions) for field in CODES]).astype(np.float64)


def _shares(field: str, acquisitions: Mapping[str, Acquisition]) -> pd.DataFrame:
    """Return a column for each frequent value of a code: 1 where a scan has it, else 0; NaN where it is unknown."""
    codes = pd.Series(
        {scan_id: getattr(acquisition, field) for scan_id, acquisition in acquisitions.items()}, dtype="object"
    )
    counts = codes.value_counts()
    frequent = sorted(counts.index[counts >= MIN_SCANS])
    name = field.replace("_", " ")
    columns = {f"{name} {code}": (codes == code).astype(float).where(codes.notna()) for code in frequent}
    return pd.DataFrame(columns, codes.index)


def _border(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of the ring along the border of each slice, uint8 [n]."""
    ring = np.ones(grey.shape[1:], dtype=bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    return grey[:, ring]
