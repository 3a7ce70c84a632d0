"""What the slices contribute to the margins of stage 2, by backbone and level of the lungs; of XGBoost, SHAP values.

They show how sensitive the method is to its inputs, not the cause of a disease or the place of a lesion.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.stage2.methods.base import FittedMethod
from cnr_iemn.stage2.out_of_fold import SliceSets

Floats = NDArray[np.float64]
LEVELS = ("upper third", "middle third", "lower third")
"""Of the slices, head first; the 20 groups as 7, 6 and 7."""
_LEVEL_OF_GROUP = np.repeat(np.arange(3), (7, 6, 7))


@dataclass(frozen=True)
class Contributions:
    """Contributions to the margin of each class, by scan.

    ``by_group``: float64 [scans, classes, models, 20 groups], sum over a group's numbers, mean over the sets of
    networks. ``base``: float64 [classes], the margin without features. The base plus a scan's sum is its margin.
    ``attribution``: what they are, see ``FittedMethod``.
    """

    scan_ids: tuple[str, ...]
    classes: tuple[str, ...]
    models: tuple[str, ...]
    by_group: Floats
    base: Floats
    attribution: str = "Exact SHAP values of XGBoost"

    @property
    def by_level(self) -> Floats:
        """By thirds of the slices, float64 [scans, classes, models, 3]."""
        thirds = [self.by_group[..., level == _LEVEL_OF_GROUP].sum(axis=-1) for level in range(len(LEVELS))]
        return np.stack(thirds, axis=-1)

    def of_scan(self, scan_id: str) -> dict[str, Any]:
        """Return one scan's contributions by class: ``base``, ``models`` by model and third; log-odds, JSON-ready."""
        levels = self.by_level[self.scan_ids.index(scan_id)]
        return {
            name: {
                "base": float(self.base[k]),
                "models": {
                    model: dict(zip(LEVELS, levels[k, m].tolist(), strict=True)) for m, model in enumerate(self.models)
                },
            }
            for k, name in enumerate(self.classes)
        }

    def summary(self) -> dict[str, Any]:
        """Return mean absolute contributions, log-odds, JSON-ready: by class, then model, 20 groups head first."""
        means = np.abs(self.by_group).mean(axis=0)
        return {
            name: {model: means[k, m].tolist() for m, model in enumerate(self.models)}
            for k, name in enumerate(self.classes)
        }


def contributions(fitted: FittedMethod, sets: SliceSets) -> Contributions | None:
    """Return a method's contributions for scans, the mean over their sets; None where the method has none.

    ``sets``: at least one scan, with the same number of sets each.
    """
    scans = list(sets.values())
    read = fitted.axes.read
    by_set = [fitted.contributions(read([arrays[k] for arrays in scans])) for k in range(len(scans[0]))]
    groups = [group for group in by_set if group is not None]
    if not groups:
        return None
    return Contributions(
        scan_ids=tuple(sets),
        classes=fitted.axes.classes,
        models=fitted.axes.models,
        by_group=np.mean([group.by_group for group in groups], axis=0),
        base=groups[0].base,
        attribution=fitted.attribution,
    )
