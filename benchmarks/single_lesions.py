"""Phantom scans with a single lesion, and the same scans without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.perturbations import UNPERTURBED, Perturbation
from cnr_iemn.ct.preprocess import PreparedScan, lung_square, prepare_volume
from cnr_iemn.ct.resize import resize_mask
from cnr_iemn.ct.volume import Volume
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.phantom.lesions import Lesion
from cnr_iemn.phantom.renderer import PhantomScan, render_scan
from cnr_iemn.phantom.scan_spec import make_scan_spec

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """A scan with one lesion and the same scan without it.

    Attributes:
        label: The class.
        prepared: The scan with the lesion, as the networks get it.
        twin: The scan without the lesion, as the networks get it.
        lesion: The true lesion mask, bool [slices, size, size], as ``prepared.grey``.
        lungs: The true lung mask of the same shape.
        slices: Indices of the infected slices.
    """

    label: str
    prepared: PreparedScan
    twin: PreparedScan
    lesion: Mask
    lungs: Mask
    slices: NDArray[np.intp]


def largest_lesion(lesions: Sequence[Lesion]) -> Lesion:
    """Return the lesion with the largest volume, layers along the back excluded."""
    return max((lesion for lesion in lesions if not lesion.layer), key=lambda lesion: lesion.volume_ml)


def random_lesion(lesions: Sequence[Lesion], *, seed: int) -> Lesion:
    """Return a random lesion, layers along the back excluded; small and large ones are equally likely."""
    candidates = [lesion for lesion in lesions if not lesion.layer]
    return candidates[int(np.random.default_rng(seed).integers(len(candidates)))]


def to_volume(scan: PhantomScan) -> Volume:
    """Return the volume that reading the phantom's files would give."""
    return Volume(scan.hu, scan.spacing_mm, scan.z_mm, (), True, "")


def prepare(volume: Volume, pixels: PixelSettings, perturbation: Perturbation = UNPERTURBED) -> PreparedScan:
    """Prepare a scan, changed by the perturbation, with the settings of a study."""
    volume, window = perturbation.apply(volume, pixels.window)
    return prepare_volume(volume, size=pixels.size, lungs=pixels.lungs, window=window, crop=pixels.crop)


def render_subject(
    seed: int, label: str, pixels: PixelSettings, *, rows: int, n_slices: tuple[int, int], largest: bool = True
) -> Subject:
    """Render a scan of this class with only its largest lesion (or a random one), and the same scan without it."""
    spec = make_scan_spec(seed, label, n_slices=n_slices)
    lesion = largest_lesion(spec.lesions) if largest else random_lesion(spec.lesions, seed=seed)
    scan = render_scan(spec, rows=rows, lesions=(lesion,))
    twin = render_scan(spec, rows=rows, lesions=())
    view: tuple[slice, slice] = slice(None), slice(None)
    if pixels.crop == "lungs":
        view = lung_square(segment_lungs(scan.hu, scan.spacing_mm, method=pixels.lungs).mask)
    lesion_mask, lungs = (_resize_masks(mask[:, *view], pixels.size) for mask in (scan.lesion_mask, scan.lungs))
    slices = np.flatnonzero(scan.infected & (lesion_mask & lungs).any(axis=(1, 2)))
    with_lesion, without = (prepare(to_volume(phantom), pixels) for phantom in (scan, twin))
    return Subject(label, with_lesion, without, lesion_mask, lungs, slices)


def _resize_masks(masks: Mask, size: int) -> Mask:
    out = np.zeros((len(masks), size, size), bool)
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        out[index] = resize_mask(masks[index].view(np.uint8), size)
    return out


def bounding_box(lesion: Mask) -> tuple[slice, slice]:
    """Return the bounding box of a mask that is not empty: rows and columns."""
    indices = [np.flatnonzero(lesion.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(int(line[0]), int(line[-1]) + 1) for line in indices)
    return rows, columns
