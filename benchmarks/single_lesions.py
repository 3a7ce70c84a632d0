"""Phantom scans with one lesion of known place, and their twins without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.lesions import Lesion
from cnr_iemn.cohort.phantom.plan import make_plan
from cnr_iemn.cohort.phantom.scan import PhantomScan, render_scan
from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.prepare import PreparedScan, lung_square, prepare_volume
from cnr_iemn.ct.resize import resize_mask
from cnr_iemn.ct.volume import Volume

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """A scan with one lesion as the networks get it, and its twin without. ``lesion``, ``lungs``: as ``grey``, true."""

    label: str
    prepared: PreparedScan
    twin: PreparedScan
    lesion: Mask
    lungs: Mask
    slices: NDArray[np.intp]


def largest_lesion(lesions: Sequence[Lesion]) -> Lesion:
    """Return the lesion of the largest volume that is no layer along the back."""
    return max((each for each in lesions if not each.layer), key=lambda each: each.volume_ml)


def any_lesion(lesions: Sequence[Lesion], *, seed: int) -> Lesion:
    """Return one at random that is no layer, small ones as likely as large ones."""
    possible = [each for each in lesions if not each.layer]
    return possible[int(np.random.default_rng(seed).integers(len(possible)))]


def as_volume(scan: PhantomScan) -> Volume:
    """Return a rendered phantom as its files would be read."""
    return Volume(scan.hu, scan.spacing_mm, scan.z_mm, (), True, "")


def prepared(volume: Volume, pixels: PixelSettings) -> PreparedScan:
    """Prepare a scan as a study's scans are."""
    return prepare_volume(volume, size=pixels.size, lungs=pixels.lungs, window=pixels.window, crop=pixels.crop)


def subject(
    seed: int, label: str, pixels: PixelSettings, *, rows: int, n_slices: tuple[int, int], largest: bool = True
) -> Subject:
    """Render a scan of this class with its largest lesion alone (or any), and its twin without."""
    plan = make_plan(seed, label, n_slices=n_slices)
    lesion = largest_lesion(plan.lesions) if largest else any_lesion(plan.lesions, seed=seed)
    scan = render_scan(plan, rows=rows, lesions=(lesion,))
    twin = render_scan(plan, rows=rows, lesions=())
    view: tuple[slice, slice] = slice(None), slice(None)
    if pixels.crop == "lungs":
        view = lung_square(segment_lungs(scan.hu, scan.spacing_mm, method=pixels.lungs).mask)
    there, lungs = (_resized(mask[:, *view], pixels.size) for mask in (scan.lesion_mask, scan.lungs))
    shown = np.flatnonzero(scan.infected & (there & lungs).any(axis=(1, 2)))
    return Subject(label, prepared(as_volume(scan), pixels), prepared(as_volume(twin), pixels), there, lungs, shown)


def _resized(masks: Mask, size: int) -> Mask:
    found = np.zeros((len(masks), size, size), bool)
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        found[index] = resize_mask(masks[index].view(np.uint8), size)
    return found


def box_of(lesion: Mask) -> tuple[slice, slice]:
    """Return the smallest box around a mask that is not empty, rows and columns."""
    ends = [np.flatnonzero(lesion.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(int(there[0]), int(there[-1]) + 1) for there in ends)
    return rows, columns
