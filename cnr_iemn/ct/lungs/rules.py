"""The lung mask: three rules, and when to doubt what they give.

All take air from -320 HU down and differ in how they tell the lungs from other air, in what they add to it, and in
where at its edge they let it end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.compiled import compiled
from cnr_iemn.ct.lungs.components import THRESHOLD_HU, Mask, bounds, fill_holes, label, large_parts
from cnr_iemn.ct.lungs.diaphragm import find_domes
from cnr_iemn.ct.lungs.gas import find_gas
from cnr_iemn.ct.lungs.pleura import TISSUE_HU, recover_pleura
from cnr_iemn.ct.lungs.rays import Spacing
from cnr_iemn.ct.lungs.refine import Coarse, refined
from cnr_iemn.errors import ConfigurationError

# voxels are joined or left out to about this size to tell where the lungs are, not where they end
_COARSE_MM, _COARSE_STEP_MM, _FEW_SLICES = 2.0, 4.0, 40
_LEAST_PART = 0.02  # of the lungs, once other air is gone
_BODY_MM = 360.0  # wide, where the size of a pixel is not known
_MENTIONED_SHARE = 0.02

DENSE_PLEURA = "dense tissue at the pleura count as lung"
"""Ends the finding that says how much of the lung is consolidation or effusion along the ribs: a sign of disease."""


@dataclass(frozen=True)
class Lungs:
    """Where the lungs are.

    ``mask``: bool [slices, rows, columns]. ``litres``: its volume. ``findings``: what should be known of it, reasons to
    doubt it among them.
    """

    mask: Mask
    litres: float
    findings: tuple[str, ...]


def segment_lungs(hu: NDArray[np.int16], spacing_mm: Spacing, *, method: str = "pleura") -> Lungs:
    """Return the lungs of a volume, HU [slices, rows, columns], head first; a single slice works too.

    ``spacing_mm``: slices, rows, columns; NaN where not known. ``method``: pleura, border, or tutorial (the one that
    the paper cites). Raises ConfigurationError for another name.
    """
    findings: tuple[str, ...] = ()
    if method == "pleura":
        mask, findings = pleura_rule(hu, spacing_mm)
    elif method == "border":
        mask = border_rule(hu)
    elif method == "tutorial":
        mask = tutorial_rule(hu)
    else:
        raise ConfigurationError(f"lungs={method} is unknown. Choose one of pleura, border, tutorial.")
    litres = float(np.count_nonzero(mask) * np.prod(spacing_mm) / 1e6)
    return Lungs(mask, litres, findings + _doubts(hu, mask, litres))


def border_rule(hu: NDArray[np.int16]) -> Mask:
    """Keep the large components of air that touch no in-plane border, their holes filled slice by slice.

    Large: at least a tenth of the largest. Components touch by faces.
    """
    return _filled(_inner_air(hu))


def _inner_air(hu: NDArray[np.int16]) -> Mask:
    labels, counts = label(hu <= THRESHOLD_HU)
    counts[0] = 0
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        counts[edge.ravel()] = 0  # air around the body, or a lung that the field of view cuts
    keep = (counts > 0) & (10 * counts >= counts.max())
    mask: Mask = keep[labels]
    return mask


def _filled(mask: Mask) -> Mask:
    for image in mask.view(np.uint8):
        if image.any():
            image[:] = fill_holes(image)
    return mask


def pleura_rule(hu: NDArray[np.int16], spacing_mm: Spacing) -> tuple[Mask, tuple[str, ...]]:
    """Follow the border rule, leave out other air than the lungs', and add what lies between them and the chest wall.

    Without trachea, main bronchi, stomach and bowel (``find_gas``) and the diaphragm's top (``find_domes``); with
    consolidation and fluid at the pleura (``recover_pleura``). Returns the mask and findings on what was added.
    """
    factor = _number(round, _COARSE_MM / spacing_mm[2])
    every = _number(math.floor, _COARSE_STEP_MM / spacing_mm[0]) if len(hu) > _FEW_SLICES else 1
    coarse = _shrunk(hu, every, factor)
    air = _inner_air(coarse)
    lungs = _filled(air.copy())
    if not lungs.any():
        return np.zeros(hu.shape, bool), ()
    step, row, column = _guessed(spacing_mm, coarse) if np.isnan(spacing_mm).any() else spacing_mm
    spacing = (step * every, row * factor, column * factor)
    domes = find_domes(air, lungs, spacing)
    gas = find_gas(coarse, lungs, spacing)
    lungs &= ~gas
    view = bounds(lungs)
    lungs[view] = large_parts(lungs[view], least=_LEAST_PART * np.count_nonzero(lungs))
    recovered = recover_pleura(coarse, lungs, spacing)
    added = _seamless(lungs, recovered.mask, coarse, gas)
    mask = refined(hu, Coarse(lungs, gas, added, domes), every, factor)
    findings = []
    if np.count_nonzero(added) > _MENTIONED_SHARE * np.count_nonzero(lungs):
        ml = np.count_nonzero(added) * float(np.prod(spacing_mm)) * every * factor**2 / 1000
        size = "" if np.isnan(ml) else f"{ml:.0f} ml of "
        findings.append(f"{size}{DENSE_PLEURA}")
    findings += [
        f"lung mask in doubt: what the {side} lung lacks was taken from the other one's mirror image"
        for side in recovered.mirrored
    ]
    return mask, tuple(findings)


def _number(rounded: Callable[[float], int], ratio: float) -> int:
    """Return a whole number from 1 up; 1 for NaN, where a spacing is not known."""
    return 1 if math.isnan(ratio) else max(1, rounded(ratio))


def _guessed(spacing_mm: Spacing, hu: NDArray[np.int16]) -> Spacing:
    """Return a spacing that makes the body 36 cm wide, for lengths that need not be right to more than a third."""
    tissue = (hu > THRESHOLD_HU).mean(axis=(0, 1)) > 0.05
    pixel = _BODY_MM / max(int(np.count_nonzero(tissue)), 1)
    step = spacing_mm[0] if np.isfinite(spacing_mm[0]) else 300.0 / max(len(hu), 60)
    return step, pixel, pixel


def _shrunk(hu: NDArray[np.int16], every: int, factor: int) -> NDArray[np.int16]:
    """Return means over ``factor`` x ``factor`` pixels of every so many slices.

    What is left over at the lower and right edge is dropped.
    """
    if factor == 1:
        return hu[::every]
    rows, columns = (size // factor for size in hu.shape[1:])
    coarse = np.empty((len(range(0, len(hu), every)), rows, columns), np.int16)
    _average(hu, every, factor, coarse)
    return coarse


@compiled
def _average(hu: NDArray[np.int16], every: int, factor: int, coarse: NDArray[np.int16]) -> None:
    n, rows, columns = coarse.shape
    line = np.empty(columns * factor, np.int32)
    for index in range(n):
        for row in range(rows):
            line[:] = 0
            for i in range(row * factor, (row + 1) * factor):
                pixels = hu[index * every, i]
                for k in range(line.size):
                    line[k] += pixels[k]
            for column in range(columns):
                total = line[column * factor]
                for k in range(column * factor + 1, (column + 1) * factor):
                    total += line[k]
                coarse[index, row, column] = np.rint(total / factor**2)


def _seamless(lungs: Mask, added: Mask, hu: NDArray[np.int16], gas: Mask) -> Mask:
    """Close the seams of a pixel or two that rays leave between aerated lung and what was added."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    result = np.zeros_like(added)
    for index in np.flatnonzero(added.any(axis=(1, 2))):
        closed = cv2.morphologyEx((lungs[index] | added[index]).view(np.uint8), cv2.MORPH_CLOSE, kernel).view(bool)
        result[index] = (closed & (hu[index] < TISSUE_HU) & ~gas[index] & ~lungs[index]) | added[index]
    return result


def tutorial_rule(hu: NDArray[np.int16]) -> Mask:
    """Follow the algorithm of the tutorial that the paper cites for its masks (Zuidhof, Kaggle, 2017).

    Background is the air that is joined to voxel [0, 0, 0]; in each slice all that lies outside the largest solid
    component counts as lung; the largest component of all that is the lungs. Components touch by faces, edges or
    corners.
    """
    from skimage.measure import label as components

    labels = components(hu <= THRESHOLD_HU)
    lungs: Mask = labels > 0
    if labels[0, 0, 0]:
        lungs &= labels != labels[0, 0, 0]
    for image in lungs:
        parts = components(~image)
        if parts.any():
            image[:] = parts != _largest(parts)
    parts = components(lungs)
    return parts == _largest(parts) if parts.any() else lungs


def _largest(labels: NDArray[np.integer]) -> int:
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return int(counts.argmax())


def _doubts(hu: NDArray[np.int16], mask: Mask, litres: float) -> tuple[str, ...]:
    """Return why the mask may be wrong. The limits are wide: they catch another organ, not a rough edge."""
    if not mask.any():
        return ("lung mask in doubt: no lungs found",)
    doubts = []
    if not (1 <= litres <= 10 or np.isnan(litres)):  # NaN: the spacing is not known
        doubts.append(f"{litres:.2f} litres, lungs hold 1 to 10")
    some = slice(None, None, 4) if mask[::4].any() else slice(None)
    # the body's own middle, for the mask's would follow a lung that is missing; every fourth row and slice is enough
    tissue = np.count_nonzero(hu[some, ::4] > THRESHOLD_HU, axis=(0, 1))
    middle = int(np.rint(np.average(np.arange(hu.shape[2]), weights=tissue))) if tissue.any() else hu.shape[2] // 2
    left = np.count_nonzero(mask[:, :, :middle]) / np.count_nonzero(mask)
    if len(mask) > 1 and not 0.15 <= left <= 0.85:  # a single slice may cut one lung only
        doubts.append(f"one side holds {100 * min(left, 1 - left):.0f}% of it, at least 15% are usual")
    if any(edge.any() for edge in (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])):
        doubts.append("it touches the image border")
    mean = float(hu[some][mask[some]].mean())
    if not -950 <= mean <= -500:
        doubts.append(f"mean {mean:.0f} HU, lungs have -950 to -500")
    return tuple(f"lung mask in doubt: {doubt}" for doubt in doubts)
