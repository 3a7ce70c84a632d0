"""XGBoost on a description of the scan: on percentages, the paper's stage 2 (section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.stage2.booster import (
    BOOSTER_FILE,
    booster_classes,
    load_booster,
    margin_contributions,
    predict_probabilities,
    save_booster,
    train_booster,
)
from cnr_iemn.stage2.methods.base import FittedMethod, Floats, GroupContributions, Method
from cnr_iemn.stage2.methods.descriptions import Description
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray


@dataclass(frozen=True)
class TreeSettings:
    """Of XGBoost, as ``train_booster`` takes them."""

    rounds: int = 100
    max_depth: int = 6
    eta: float = 0.3


PAPER_TREES = TreeSettings()


@dataclass(frozen=True)
class FittedBooster(FittedMethod):
    """A trained booster."""

    axes: Axes
    description: Description
    booster: xgboost.Booster
    attribution: ClassVar[str] = "Exact SHAP values of XGBoost"

    def table(self, scans: Sequence[ScanArray]) -> pd.DataFrame:
        """Return the booster's features, a row for each scan."""
        return pd.DataFrame(self.description.rows(scans), columns=self.description.columns(self.axes))

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes]."""
        return predict_probabilities(self.booster, self.table(scans))

    def contributions(self, scans: Sequence[ScanArray]) -> GroupContributions | None:
        """Return SHAP values, by group."""
        if not self.description.blocks:
            return None
        values = margin_contributions(self.booster, self.table(scans))
        return self.description.gather(values[:, :, :-1], values[0, :, -1], self.axes)

    def save(self, path: Path) -> None:
        """Write the booster as UBJSON."""
        save_booster(path, self.booster)


@dataclass(frozen=True)
class Boosted(Method):
    """XGBoost on a description of the scan. ``weighted``: every class has the same total weight."""

    description: Description
    settings: TreeSettings = field(default=PAPER_TREES)
    weighted: bool = False
    file: ClassVar[str] = BOOSTER_FILE

    def fit(self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0) -> FittedBooster:
        """Train on the training scans."""
        weights = None
        if self.weighted:
            counts = np.bincount(labels)
            weights = len(labels) / (len(counts) * counts[labels])
        booster = train_booster(
            pd.DataFrame(self.description.rows(scans), columns=self.description.columns(axes)),
            [axes.classes[k] for k in labels],
            axes.classes,
            rounds=self.settings.rounds,
            max_depth=self.settings.max_depth,
            eta=self.settings.eta,
            seed=seed,
            weights=weights,
        )
        return FittedBooster(axes, self.description, booster)

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedBooster:
        """Read the booster."""
        booster = load_booster(path)
        classes = booster_classes(booster)
        if classes != axes.classes:
            raise RunError(
                f"{path} predicts the classes {', '.join(classes)}, its ensemble has {', '.join(axes.classes)}. {again}"
            )
        # without a scan: compares the features
        predict_probabilities(booster, pd.DataFrame(columns=self.description.columns(axes)))
        return FittedBooster(axes, self.description, booster)
