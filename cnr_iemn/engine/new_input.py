"""What predict.py is given: what its scans are called, and which of them it does not answer for, or with a warning."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.find import find_scans
from cnr_iemn.ct.prepare import PreparedScan, prepare_scan
from cnr_iemn.errors import CnrIemnError, ScanError, fault
from cnr_iemn.registry import N_GROUPS

LEAST_LITRES = 0.5
"""Below, no lungs were found: after a forced breath out those of an adult still hold more than a litre. The air in
sinuses or bowel, or the tips of the lungs on an abdomen's scan, holds less."""
MOST_STEP_MM = 5.0
"""Beyond, small lesions fall between the slices; the paper's cohort has 2 mm."""
CUT_SHARE = 0.25
"""Of the largest lung area in a slice: where the first or the last slice has more, the lungs go on outside the scan. In
real scans these have at most 3%, in coarse phantoms 21%."""
FEWEST_WITH_LUNG = 0.6
"""Of the slices; chest scans have lung in 87% and more."""


def find_new_scans(source: Path, *, anonymous: bool) -> list[tuple[str, Path]]:
    """Return id and path of each scan (see ``find_scans``); ``anonymous``: scan-0001 and so on, in the order found."""
    found = find_scans(source, workers=1, called="the input" if anonymous else None)
    return [(f"scan-{k:04d}", path) for k, (_, path) in enumerate(found, 1)] if anonymous else found


def output_name(source: Path, *, anonymous: bool) -> str:
    """Return the name of the folder for the answers; where names must not show, it is not that of the input."""
    return "anonymised" if anonymous else source.resolve().name


def prepare_new(pixels: PixelSettings, numbered: bool, job: tuple[str, Path]) -> PreparedScan:
    """Return a scan that can be answered, doubts among its findings. ``job``: its id and path. Raises ScanError.

    Whatever else goes wrong refuses this scan too: it must not stop the others, and the error's own words, which may
    quote the scan, are not passed on.
    """
    scan, path = job
    try:
        return checked(prepare_scan(path, **vars(pixels), scan=scan, numbered=numbered), scan)
    except (CnrIemnError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, see above
        raise fault(scan, error) from None


def checked(prepared: PreparedScan, scan: str) -> PreparedScan:
    """Return the scan with what makes its answer doubtful among its findings. Raises ScanError where it has none."""
    n_slices, litres = len(prepared.grey), prepared.lung_litres
    if n_slices < N_GROUPS:
        raise ScanError(
            f"{scan}: {n_slices} slices, at least {N_GROUPS} are needed: an answer rests on {N_GROUPS} groups of them. "
            "Give a series with thinner slices, or the whole one."
        )
    area = np.count_nonzero(prepared.lungs, axis=(1, 2))
    if not area.any() or litres < LEAST_LITRES:
        raise ScanError(
            f"{scan}: no lungs found ({litres:.2f} litres, at least {LEAST_LITRES} are needed): no chest CT, or one "
            "whose lungs the mask misses. Give the chest series; prepare.py shows the mask of a scan."
        )
    doubts = [
        f"lungs may be cut: the {name} slice holds {100 * share:.0f}% of the largest lung area"
        for name, share in (("top", area[0] / area.max()), ("lowest", area[-1] / area.max()))
        if share > CUT_SHARE
    ]
    with_lung = np.count_nonzero(area) / n_slices
    if with_lung < FEWEST_WITH_LUNG:
        doubts.append(f"lung in {100 * with_lung:.0f}% of the slices only: not a chest alone")
    if prepared.spacing_mm[0] > MOST_STEP_MM:
        doubts.append(f"thick slices: {prepared.spacing_mm[0]:.1f} mm apart, small lesions may lie between")
    return replace(prepared, findings=(*prepared.findings, *(f"answer in doubt: {doubt}" for doubt in doubts)))
