"""The slices of a scan that contributed most to its answer, and their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.parts import part_of_slices
from cnr_iemn.ct.plan import TURNED
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.patients.slice_sets import ScanArray
from cnr_iemn.registry import N_GROUPS
from cnr_iemn.report.pictures import outlined

SIDE = 384
"""Of a picture, pixels."""
WINDOW = (-1350.0, 150.0)
"""HU at black and at white: the lung window, level -600 and width 1500."""
MARK = 24
"""Side of the black square in which R and L stand at half height, pixels."""
_OPACITY = 0.45  # of the map where it is 1: the slice stays visible below


@dataclass(frozen=True)
class KeySlice:
    """``contribution``: of its group of slices to the answered class, log-odds. ``probability``: mean of the networks'.

    ``index``: 0-based, head first.
    """

    index: int
    group: int
    contribution: float
    probability: float


def key_slices(
    by_group: NDArray[np.float64], sets: Sequence[ScanArray], answered: int, *, most: int = 3
) -> tuple[KeySlice, ...]:
    """Return, of the groups that speak most for the answered class, the slice that the networks hold most for it.

    The strongest first; groups that speak against it or hold no slice are none. ``by_group``: contributions to the
    class, float64 [models, groups]. ``sets``: the scan as every set of networks sees it.
    """
    total = by_group.sum(axis=0)
    probability = np.mean([each[:, :, answered].mean(axis=0) for each in sets], axis=0)
    group_of = part_of_slices(len(probability), N_GROUPS)
    found = []
    for group in np.argsort(-total, kind="stable"):
        members = np.flatnonzero(group_of == group)
        if total[group] > 0 and len(members):
            index = int(members[probability[members].argmax()])
            found.append(KeySlice(index, int(group), float(total[group]), float(probability[index])))
    return tuple(found[:most])


def lung_window(grey: NDArray[np.uint8], *, kept: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the slices in the lung window, uint8 of the same shape. ``kept``: HU at their grey 0 and 255.

    What lies outside ``kept`` is shown as its end: for -1000 to 400 HU air below -1000 is at most 4 levels too light,
    and a grey level is 5.5 HU where the picture's is 5.9.
    """
    low, high = kept
    black, white = WINDOW
    hu = low + np.arange(256) * (high - low) / 255
    table = np.rint(np.clip((hu - black) / (white - black), 0, 1) * 255).astype(np.uint8)
    return np.asarray(table[grey])


def slice_pictures(
    prepared: PreparedScan, index: int, raised: NDArray[np.float32] | None, *, kept: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return ``pictures`` of one slice of a scan in the lung window, R and L named unless the scan is turned.

    ``kept``: HU at grey 0 and 255 of the prepared scan.
    """
    seen = lung_window(prepared.grey[index], kept=kept)
    return pictures(seen, prepared.lungs[index].astype(np.uint8), raised, marks=TURNED not in prepared.findings)


def pictures(
    grey: NDArray[np.uint8], mask: NDArray[np.uint8], raised: NDArray[np.float32] | None, *, marks: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return a slice with the outline of its lung mask, and the same under the map.

    Each uint8 [SIDE, SIDE, 3]: blue, green, red. ``grey``: uint8 [size, size], in the window to be seen; ``mask``: 0 or
    1, of that shape; ``raised``: float32 [SIDE, SIDE], 0 to 1, None where there is no map. ``marks``: whether the
    patient's right (on the left) and left are named, which needs rows that run to the left.
    """
    plain = outlined(grey, mask, side=SIDE)
    shown = [plain]
    if raised is not None:
        colours = cv2.applyColorMap(np.rint(255 * raised).astype(np.uint8), cv2.COLORMAP_INFERNO)
        share = _OPACITY * raised[..., None]
        shown.append(np.rint((1 - share) * plain + share * colours).astype(np.uint8))
    for image in shown if marks else ():
        for letter, left in (("R", 4), ("L", SIDE - 4 - MARK)):
            top = (SIDE - MARK) // 2
            cv2.rectangle(image, (left, top), (left + MARK, top + MARK), (0, 0, 0), cv2.FILLED)
            base = (left + 5, top + MARK - 5)
            cv2.putText(image, letter, base, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    return plain, shown[1] if raised is not None else None
