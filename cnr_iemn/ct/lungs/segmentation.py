"""The lung mask: four methods, and reasons to doubt a mask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import morphology, parameters
from cnr_iemn.ct.lungs.exclusions import find_domes, find_gas
from cnr_iemn.ct.lungs.juxtapleural import recover_pleura
from cnr_iemn.ct.lungs.morphology import Mask, Spacing
from cnr_iemn.ct.lungs.network import segment_by_network
from cnr_iemn.ct.lungs.tutorial import segment_as_tutorial
from cnr_iemn.errors import ConfigurationError

DENSE_PLEURA = "dense tissue at the pleura count as lung"
"""Ends the finding that says how much of the lung is consolidation or effusion along the ribs: a sign of disease."""


@dataclass(frozen=True)
class Lungs:
    """The lungs of a scan.

    Attributes:
        mask: bool [slices, rows, columns].
        litres: Volume of the mask; NaN where the spacing is unknown.
        findings: Remarks on the mask and reasons to doubt it.
    """

    mask: Mask
    litres: float
    findings: tuple[str, ...]


def segment_lungs(hu: NDArray[np.int16], spacing_mm: Spacing, *, method: str = "pleura") -> Lungs:
    """Segment the lungs of a volume or of a single slice.

    Args:
        hu: int16 [slices, rows, columns], HU, head first.
        spacing_mm: Slice, row and column spacing; NaN where unknown.
        method: ``pleura``, ``border``, ``tutorial`` (the algorithm that the paper cites) or ``lungmask`` (the R231
            network of the package lungmask, an optional dependency).

    Returns:
        The mask, its volume and findings.

    Raises:
        ConfigurationError: The method is unknown, or lungmask is not installed or cannot load its weights.
    """
    findings: tuple[str, ...] = ()
    if method == "pleura":
        mask, findings = _segment_to_pleura(hu, spacing_mm)
    elif method == "border":
        mask = morphology.map_slices(_inner_air(hu), morphology.fill_holes)
    elif method == "tutorial":
        mask = segment_as_tutorial(hu)
    elif method == "lungmask":
        mask = segment_by_network(hu)
    else:
        raise ConfigurationError(f"lungs={method} is unknown. Choose one of pleura, border, tutorial, lungmask.")
    voxels = int(np.count_nonzero(mask))
    litres = float(voxels * np.prod(spacing_mm) / 1e6)
    return Lungs(mask, litres, findings + _doubts(hu, mask, voxels, litres))


def _inner_air(hu: NDArray[np.int16]) -> Mask:
    """Return the components of air, at least a tenth of the largest, that touch no in-plane border."""
    labels, counts = morphology.label(hu <= parameters.THRESHOLD_HU)
    counts[0] = 0
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        counts[edge.ravel()] = 0  # air around the body, or a lung that the field of view cuts
    large = (counts > 0) & (10 * counts >= counts.max())
    return np.asarray(large[labels])


def _segment_to_pleura(hu: NDArray[np.int16], spacing_mm: Spacing) -> tuple[Mask, tuple[str, ...]]:
    """Segment by the border rule, without gas and domes, with dense tissue up to the chest wall."""
    factor = max(1, round(parameters.VOXEL_MM / spacing_mm[2])) if spacing_mm[2] > 0 else 1  # 1 if unknown
    step = max(1, int(parameters.SLICE_MM / spacing_mm[0])) if spacing_mm[0] > 0 else 1
    coarse = morphology.downsample(hu, step, factor)
    air = _inner_air(coarse)
    lungs = morphology.map_slices(air, morphology.fill_holes)
    if not lungs.any():
        return np.zeros(hu.shape, bool), ()
    slice_mm, row_mm, column_mm = spacing_mm if np.isfinite(spacing_mm).all() else _assume_spacing(spacing_mm, coarse)
    spacing = (slice_mm * step, row_mm * factor, column_mm * factor)
    excluded = find_gas(coarse, lungs, spacing) | find_domes(air, lungs, spacing)
    lungs &= ~excluded
    lungs = morphology.large_components(lungs, parameters.COMPONENT_SHARE * np.count_nonzero(lungs))
    dense = recover_pleura(coarse, lungs, excluded, spacing)
    mask = morphology.refine(hu, lungs, dense, excluded, step, factor)
    if np.count_nonzero(dense) <= parameters.FINDING_SHARE * np.count_nonzero(lungs):
        return mask, ()
    ml = np.count_nonzero(dense) * float(np.prod(spacing_mm)) * step * factor**2 / 1000
    return mask, (DENSE_PLEURA if np.isnan(ml) else f"{ml:.0f} ml of {DENSE_PLEURA}",)


def _assume_spacing(spacing_mm: Spacing, hu: NDArray[np.int16]) -> Spacing:
    """Return a spacing that makes the body as wide as an adult's: right to about a third."""
    tissue = (hu > parameters.THRESHOLD_HU).mean(axis=(0, 1)) > 0.05
    pixel = parameters.BODY_WIDTH_MM / max(int(np.count_nonzero(tissue)), 1)
    step = spacing_mm[0] if np.isfinite(spacing_mm[0]) else parameters.BODY_HEIGHT_MM / max(len(hu), 60)
    return step, pixel, pixel


def _doubts(hu: NDArray[np.int16], mask: Mask, voxels: int, litres: float) -> tuple[str, ...]:
    """Return reasons to doubt the mask. The limits are wide: they catch another organ, not a rough edge."""
    if not voxels:
        return ("lung mask in doubt: no lungs found",)
    doubts = []
    if not (1 <= litres <= 10 or np.isnan(litres)):  # NaN: unknown spacing
        doubts.append(f"{litres:.2f} litres, lungs hold 1 to 10")
    sample = slice(None, None, 4) if mask[::4].any() else slice(None)
    # the middle of the body, since that of the mask would shift if a lung were missing
    tissue = np.count_nonzero(hu[sample, ::4] > parameters.THRESHOLD_HU, axis=(0, 1))
    middle = int(np.rint(np.average(np.arange(hu.shape[2]), weights=tissue))) if tissue.any() else hu.shape[2] // 2
    left = np.count_nonzero(mask[:, :, :middle]) / voxels
    if len(mask) > 1 and not 0.15 <= left <= 0.85:  # a single slice may cut one lung
        doubts.append(f"one side holds {100 * min(left, 1 - left):.0f}% of it, at least 15% are usual")
    if any(edge.any() for edge in (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])):
        doubts.append("it touches the image border")
    mean = float(hu[sample][mask[sample]].mean())
    if not -950 <= mean <= -500:
        doubts.append(f"mean {mean:.0f} HU, lungs have -950 to -500")
    return tuple(f"lung mask in doubt: {doubt}" for doubt in doubts)
