"""Render one phantom scan with its noise, its truth and a reader's labels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.acquisition import noise_slice
from cnr_iemn.cohort.phantom.anatomy import LOBES
from cnr_iemn.cohort.phantom.fields import stream
from cnr_iemn.cohort.phantom.lesions import Lesion
from cnr_iemn.cohort.phantom.painter import SlicePainter
from cnr_iemn.cohort.phantom.plan import Plan, lesion_table, make_plan

READER_ERROR = 3
"""Largest error, in slices of a 150-slice scan, of the first and the last slice that the reader calls infected."""


@dataclass(frozen=True)
class PhantomScan:
    """A rendered scan, head first, with its truth.

    ``hu`` int16 [n, rows, rows]; ``spacing_mm`` step, row, column; ``z_mm`` float64 [n] falling; ``lungs`` bool and
    ``lesion_mask`` bool (every pixel a lesion reaches), as ``hu``; ``infected`` bool [n] and ``lobes`` bool [n, 5] (in
    the order of `anatomy.LOBES`) are true, ``labelled`` and ``labelled_lobes`` are as the reader reports them;
    ``lesions`` one row each.
    """

    plan: Plan
    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    lungs: NDArray[np.bool_]
    lesion_mask: NDArray[np.bool_]
    infected: NDArray[np.bool_]
    lobes: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    labelled_lobes: NDArray[np.bool_]
    lesions: pd.DataFrame


def make_scan(seed: int, label: str, *, rows: int, n_slices: tuple[int, int], lesions: bool = True) -> PhantomScan:
    """Render the scan of this seed and class on a matrix of ``rows`` x ``rows``.

    One seed gives one body, protocol, noise and set of chance findings for every class. ``lesions=False`` renders the
    twin without its disease.
    """
    plan = make_plan(seed, label, n_slices=n_slices)
    return render_scan(plan, rows=rows, lesions=plan.lesions if lesions else ())


def render_scan(plan: Plan, *, rows: int, lesions: tuple[Lesion, ...]) -> PhantomScan:
    """Render a planned scan with these lesions in place of its own; the noise is that of its seed."""
    n, depths = plan.acquisition.n_slices, plan.acquisition.depths()
    hu = np.empty((n, rows, rows), np.int16)
    lungs, touched = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    lobes = np.zeros((n, len(LOBES)), bool)
    noise = stream(plan.seed, "noise")
    painter = SlicePainter(plan, rows, lesions)
    for index, u in enumerate(depths):
        image, lungs[index], touched[index], lobes[index] = painter.paint(u)
        image += noise_slice(noise, rows, plan.acquisition)
        hu[index] = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    labelled_lobes = read_labels(stream(plan.seed, "reader"), lobes)
    pixel = plan.acquisition.field_of_view / rows
    return PhantomScan(
        plan=plan,
        hu=hu,
        spacing_mm=(plan.acquisition.step, pixel, pixel),
        z_mm=np.array([plan.acquisition.table_z - plan.acquisition.step * k for k in range(n)]),
        lungs=lungs,
        lesion_mask=touched,
        infected=np.asarray(lobes.any(1)),
        lobes=lobes,
        labelled=np.asarray(labelled_lobes.any(1)),
        labelled_lobes=labelled_lobes,
        lesions=lesion_table(plan),
    )


def read_labels(rng: np.random.Generator, lobes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return lobe labels [n, 5] as a reader reports them: first and last infected slice in error by up to 3 of 150."""
    rows = np.flatnonzero(lobes.any(1))
    errors = rng.integers(-READER_ERROR, READER_ERROR + 1, 2)
    reported = lobes.copy()
    if not len(rows):
        return reported
    n = len(lobes)
    early, late = np.rint(errors * n / 150).astype(int)
    first, last = max(int(rows[0] + early), 0), min(int(rows[-1] + late), n - 1)
    if first > last:
        return reported
    reported[:first] = False
    reported[last + 1 :] = False
    reported[first : rows[0]] = lobes[rows[0]]
    reported[rows[-1] + 1 : last + 1] = lobes[rows[-1]]
    return reported
