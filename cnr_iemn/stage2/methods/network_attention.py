"""The answer of networks with attention themselves: each one's own of the scan, averaged over the networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from typing_extensions import TypedDict

from cnr_iemn.stage2.methods.base import FittedMethod, Floats, Method, read_parameters, write_parameters
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray

_LEAST = 1e-30
"""Of a probability, before its logarithm: float32 can round one to 0."""


class _Nothing(TypedDict):
    pass


@dataclass(frozen=True)
class FittedNetworkAttention(FittedMethod):
    """The networks' own answer, for these models and classes."""

    axes: Axes

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes].

        A network's logits of a scan are the weighted mean of its slices' (``stage1.models.bags``). The logarithms of
        the slices' probabilities are their logits but for a constant of each slice, which the softmax over the
        classes takes away again.
        """
        return np.array([self._one_scan(scan) for scan in scans])

    def _one_scan(self, scan: ScanArray) -> Floats:
        n_classes = len(self.axes.classes)
        logs = np.log(np.maximum(scan[:, :, :n_classes].astype(np.float64), _LEAST))
        scores = scan[:, :, n_classes].astype(np.float64) if self.axes.attention else np.zeros(scan.shape[:2])
        weights = softmax(scores, axis=1)
        return np.asarray(softmax((weights[:, :, None] * logs).sum(axis=1), axis=1).mean(axis=0))

    def save(self, path: Path) -> None:
        """Write models and classes; there are no parameters."""
        write_parameters(path, self.axes, {})


class NetworkAttention(Method):
    """The answer of the networks of ``train.py task=bags``; it learns nothing.

    Where no network has attention, all slices count alike.
    """

    scored: ClassVar[bool] = True

    def fit(
        self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0
    ) -> FittedNetworkAttention:
        """Return the method; nothing is learnt."""
        return FittedNetworkAttention(axes)

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedNetworkAttention:
        """Return the method once its file fits the ensemble."""
        read_parameters(path, axes, _Nothing, again=again)
        return FittedNetworkAttention(axes)
