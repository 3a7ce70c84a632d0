"""The pictures of a scan's page: key slices in layers, and the middle slice of each group of slices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.ct.preprocess import DisplaySlices, PreparedScan, lung_square
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.inference.explanation import KeySlice
from cnr_iemn.inference.scan_result import ScanResult
from cnr_iemn.inference.slice_images import apply_lung_window
from cnr_iemn.report.patient_rows import group_shares
from cnr_iemn.report.slice_layers import body_mask, enlarge, grey_uri, heat_uri, outline_path

_LEVEL_SIDE = 152  # pixels of a picture that stands for a group of slices


@dataclass(frozen=True)
class SliceView:
    """A key slice on the page, in layers.

    Attributes:
        key: The slice.
        place: Where it lies.
        side: Of the picture, pixels.
        picture: The slice in the lung window at the scan's own resolution, a data URI.
        outline: Of the lung mask, an SVG path in pixels.
        heat: The Grad-CAM map inside the body, a data URI, or None.
        has_heat: Whether the map shows anything.
    """

    key: KeySlice
    place: str
    side: int
    picture: str
    outline: str
    heat: str | None
    has_heat: bool


@dataclass(frozen=True)
class Level:
    """The middle slice of a group. ``index``: 0-based; ``picture``: the lungs, a data URI; ``words``: its group."""

    index: int
    picture: str
    words: str


def display_slices(prepared: PreparedScan, *, window: tuple[float, float]) -> DisplaySlices:
    """Return the slices for a reader; those of the networks' size where the scan was prepared without others.

    ``window``: HU at grey 0 and 255 of the scan.
    """
    if prepared.display is not None:
        return prepared.display
    return DisplaySlices(apply_lung_window(prepared.grey, window=window), np.packbits(prepared.lungs, axis=-1))


def slice_views(result: ScanResult, display: DisplaySlices) -> list[SliceView]:
    """Return the key slices of a result, the largest contribution first."""
    views: list[SliceView] = []
    if result.explanation is None:
        return views
    for k, key in enumerate(result.explanation.keys):
        heatmap = None if result.explanation.heatmaps is None else result.explanation.heatmaps[k]
        image, mask = enlarge(display.grey[key.index], display.lungs(key.index))
        z_mm = result.prepared.z_mm[key.index]
        place = "z not known" if math.isnan(z_mm) else f"z {z_mm:.1f} mm"
        view = SliceView(
            key=key,
            place=place if result.prepared.lungs[key.index].any() else f"{place}, no lung in it",
            side=len(image),
            picture=grey_uri(image),
            outline=outline_path(mask),
            heat=None if heatmap is None else heat_uri(heatmap, body_mask(image)),
            has_heat=heatmap is not None and bool(np.rint(255 * heatmap).any()),
        )
        views.append(view)
    return views


def group_levels(result: ScanResult, display: DisplaySlices, classes: Sequence[str]) -> list[Level]:
    """Return the middle slice of each group of slices, cut to the square around the lungs."""
    groups = assign_slice_groups(len(display.grey), N_GROUPS)
    middles = [
        int(members[len(members) // 2]) for group in range(N_GROUPS) if len(members := np.flatnonzero(groups == group))
    ]
    view = lung_square(np.stack([display.lungs(index) for index in middles]).view(np.bool_))
    shares = group_shares(result.sets)
    levels = []
    for index in middles:
        image = cv2.resize(display.grey[index][view], (_LEVEL_SIDE, _LEVEL_SIDE), interpolation=cv2.INTER_AREA)
        words = ", ".join(
            f"{100 * share:.0f}% {name}"
            for name, share in zip(classes, shares[groups[index]], strict=True)
            if share > 0
        )
        levels.append(Level(index, grey_uri(np.asarray(image), quality=78), words))
    return levels
