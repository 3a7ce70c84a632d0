"""SHAP values of the booster: exact contributions to its margins, by backbone and level of the lungs.

They show how sensitive the booster is to a feature, not the cause of a disease or the place of a lesion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.stage2.booster import margin_contributions

Floats = NDArray[np.float64]
LEVELS = ("upper third", "middle third", "lower third")
"""Of the slices, head first; the 20 groups as 7, 6 and 7."""
_LEVEL_OF_GROUP = np.repeat(np.arange(3), (7, 6, 7))


@dataclass(frozen=True)
class Contributions:
    """Contributions to the margin of each class, by scan.

    ``by_group``: float64 [scans, classes, models, 20 groups], sum over a group's percentages, mean over the sets of
    networks. ``base``: float64 [classes], the margin without features. The base plus a scan's sum is its margin.
    """

    scan_ids: tuple[str, ...]
    classes: tuple[str, ...]
    models: tuple[str, ...]
    by_group: Floats
    base: Floats

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


def contributions(
    booster: xgboost.Booster, tables: Sequence[pd.DataFrame], *, classes: tuple[str, ...], models: tuple[str, ...]
) -> Contributions:
    """Return the booster's contributions for these scans.

    ``tables``: features of the same scans from each set of networks, columns as in ``group_features``.
    """
    values = np.mean([margin_contributions(booster, table) for table in tables], axis=0)
    shape = len(tables[0]), len(classes), len(models), N_GROUPS, len(classes)
    by_group = values[:, :, :-1].reshape(shape).sum(axis=-1)
    return Contributions(tuple(tables[0].index), classes, models, by_group, values[0, :, -1])
