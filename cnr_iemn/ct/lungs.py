"""The lung mask: two threshold rules, and when to doubt what they give.

Both take air from -320 HU down and differ in how they tell the lungs from the air around the body.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.errors import ConfigurationError

THRESHOLD_HU = -320

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lungs:
    """Where the lungs are.

    ``mask``: bool [slices, rows, columns]. ``litres``: its volume. ``findings``: reasons to doubt it; empty where there
    is none.
    """

    mask: Mask
    litres: float
    findings: tuple[str, ...]


def segment_lungs(hu: NDArray[np.int16], spacing_mm: tuple[float, float, float], *, method: str = "border") -> Lungs:
    """Return the lungs of a volume, HU [slices, rows, columns], head first.

    ``method``: border, or tutorial (the one the paper cites). Raises ConfigurationError for another name.
    """
    methods = {"border": border_rule, "tutorial": tutorial_rule}
    if method not in methods:
        raise ConfigurationError(f"lungs={method} is unknown. Choose one of {', '.join(methods)}.")
    mask = methods[method](hu)
    litres = float(np.count_nonzero(mask) * np.prod(spacing_mm) / 1e6)
    return Lungs(mask, litres, _doubts(hu, mask, litres))


def border_rule(hu: NDArray[np.int16]) -> Mask:
    """Keep the large components of air that touch no in-plane border, their holes filled slice by slice.

    Large: at least a tenth of the largest. Components touch by faces.
    """
    label, fill = _tools()
    labels = label(hu <= THRESHOLD_HU)
    n = int(labels.max()) + 1
    counts = np.zeros(n, dtype=np.int64)
    for image in labels:  # of all labels at once, bincount would make a copy of eight bytes a voxel
        counts += np.bincount(image.ravel(), minlength=n)
    counts[0] = 0
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        counts[edge.ravel()] = 0  # air around the body, or a lung that the field of view cuts
    keep = (counts > 0) & (10 * counts >= counts.max())
    mask: Mask = keep[labels]
    for image in mask:
        if image.any():
            image[:] = fill(image)
    return mask


def tutorial_rule(hu: NDArray[np.int16]) -> Mask:
    """Follow the algorithm of the tutorial that the paper cites for its masks (Zuidhof, Kaggle, 2017).

    Background is the air that is joined to voxel [0, 0, 0]; in each slice all that lies outside the largest solid
    component counts as lung; the largest component of all that is the lungs. Components touch by faces, edges or
    corners.
    """
    from skimage.measure import label

    labels = label(hu <= THRESHOLD_HU)
    lungs: Mask = labels > 0
    if labels[0, 0, 0]:
        lungs &= labels != labels[0, 0, 0]
    for image in lungs:
        parts = label(~image)
        if parts.any():
            image[:] = parts != _largest(parts)
    parts = label(lungs)
    return parts == _largest(parts) if parts.any() else lungs


def _largest(labels: NDArray[np.integer]) -> int:
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return int(counts.argmax())


_Label = Callable[[Mask], NDArray[np.integer]]
_Fill = Callable[[Mask], Mask]


def _tools() -> tuple[_Label, _Fill]:
    """Return labelling by faces and two-dimensional hole filling: the fast packages, or scipy with the same results."""
    try:
        import cc3d
        import fill_voids
    except ImportError:  # both are LGPL, and some sites must do without
        from scipy import ndimage

        return lambda air: ndimage.label(air)[0], ndimage.binary_fill_holes
    return lambda air: cc3d.connected_components(air, connectivity=6), fill_voids.fill


def _doubts(hu: NDArray[np.int16], mask: Mask, litres: float) -> tuple[str, ...]:
    """Return why the mask may be wrong. The limits are wide: they catch another organ, not a rough edge."""
    if not mask.any():
        return ("lung mask in doubt: no lungs found",)
    doubts = []
    if not (1 <= litres <= 10 or np.isnan(litres)):  # NaN: the spacing is not known
        doubts.append(f"{litres:.2f} litres, lungs hold 1 to 10")
    # the body's own middle, for the mask's would follow a lung that is missing; every fourth slice is enough
    tissue = np.count_nonzero(hu[::4] > THRESHOLD_HU, axis=(0, 1))
    middle = int(np.rint(np.average(np.arange(hu.shape[2]), weights=tissue))) if tissue.any() else hu.shape[2] // 2
    left = np.count_nonzero(mask[:, :, :middle]) / np.count_nonzero(mask)
    if len(mask) > 1 and not 0.15 <= left <= 0.85:  # a single slice may cut one lung only
        doubts.append(f"one side holds {100 * min(left, 1 - left):.0f}% of it, at least 15% are usual")
    if any(edge.any() for edge in (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])):
        doubts.append("it touches the image border")
    mean = float(hu[mask].mean())
    if not -950 <= mean <= -500:
        doubts.append(f"mean {mean:.0f} HU, lungs have -950 to -500")
    return tuple(f"lung mask in doubt: {doubt}" for doubt in doubts)
