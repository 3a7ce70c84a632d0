"""The loss and the balanced accuracy of each epoch of a training run, read from its metrics.csv."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.stage1.training.run_folder import RunFolder

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingCurve:
    """One training run, float64 [epochs] each, NaN where an epoch has no value.

    ``loss``: on training and on validation slices. ``balanced_accuracy``: of slices, fractions 0 to 1.
    """

    training_loss: Floats
    validation_loss: Floats
    training_accuracy: Floats
    validation_accuracy: Floats

    def __len__(self) -> int:
        return len(self.training_loss)


def read_training_curves(runs: Mapping[str, RunFolder]) -> dict[str, TrainingCurve]:
    """Return the curve of each model whose metrics.csv can be read. ``runs``: by model.

    A run without that file is whole all the same: its curve alone is left out, with a warning.
    """
    curves = {}
    for model, run in runs.items():
        path = run.path / "metrics.csv"
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): the report has no training curve of %s.", path, error, model)
            continue
        if len(table):
            curves[model] = TrainingCurve(
                *(
                    _column(table, name)
                    for name in (
                        "train/loss",
                        "val/loss",
                        "train/slice_balanced_accuracy",
                        "val/slice_balanced_accuracy",
                    )
                )
            )
    return curves


def _column(table: pd.DataFrame, name: str) -> Floats:
    if name not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
