"""Rules: methods that learn nothing from the training scans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.stage2.methods.base import FittedMethod, Floats, Method, read_parameters, write_parameters
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray


class _Nothing(TypedDict):
    pass


@dataclass(frozen=True)
class FittedRule(FittedMethod):
    """A rule for these models and classes."""

    axes: Axes
    values: Callable[[ScanArray], Floats]

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return the rule's numbers, scaled to sum 1, float64 [scans, classes]."""
        values = np.array([self.values(scan) for scan in scans])
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    def save(self, path: Path) -> None:
        """Write models and classes; there are no parameters."""
        write_parameters(path, self.axes, {})


@dataclass(frozen=True)
class Rule(Method):
    """A method without training. ``values``: a number for each class of one scan, float64 [classes], not negative."""

    values: Callable[[ScanArray], Floats]

    def fit(self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0) -> FittedRule:
        """Return the rule; nothing is learnt."""
        return FittedRule(axes, self.values)

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedRule:
        """Return the rule once its file fits the ensemble."""
        read_parameters(path, axes, _Nothing, again=again)
        return FittedRule(axes, self.values)
