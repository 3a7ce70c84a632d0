"""Two questions: is the scan infected, and if so with what?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.stage2.booster import booster_document, parse_booster, predict_probabilities, train_booster
from cnr_iemn.stage2.methods.base import FittedMethod, Floats, Method, read_parameters, write_parameters
from cnr_iemn.stage2.methods.boosted import PAPER_TREES, TreeSettings
from cnr_iemn.stage2.methods.descriptions import AMONG_INFECTED, FEW_FEATURES
from cnr_iemn.stage2.methods.logistic import LinearModel, LinearParameters
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray

_ANSWERS = ("healthy", "infected")


class _Parameters(TypedDict):
    """``detector``: XGBoost's own JSON. ``classifier``: None where there is one disease."""

    detector: dict[str, object]
    classifier: LinearParameters | None


@dataclass(frozen=True)
class FittedInfectedFirst(FittedMethod):
    """``detector``: XGBoost on few features. ``classifier``: of the disease, on the infected slices."""

    axes: Axes
    detector: xgboost.Booster
    classifier: LinearModel | None

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes]."""
        answers = predict_probabilities(self.detector, _features(scans, self.axes))
        if self.classifier is None:
            return answers
        infected = answers[:, 1:]
        return np.hstack([1 - infected, infected * self.classifier.predict_proba(AMONG_INFECTED.rows(scans))])

    def save(self, path: Path) -> None:
        """Write both models as JSON."""
        parameters: _Parameters = {
            "detector": booster_document(self.detector),
            "classifier": None if self.classifier is None else self.classifier.parameters,
        }
        write_parameters(path, self.axes, parameters)


@dataclass(frozen=True)
class InfectedFirst(Method):
    """XGBoost decides infected or healthy, logistic regression on the infected slices with what."""

    settings: TreeSettings = field(default=PAPER_TREES)

    def fit(
        self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0
    ) -> FittedInfectedFirst:
        """Train both; the second on the scans of a disease alone."""
        infected = labels > 0
        detector = train_booster(
            _features(scans, axes),
            [_ANSWERS[k] for k in infected.astype(int)],
            _ANSWERS,
            rounds=self.settings.rounds,
            max_depth=self.settings.max_depth,
            eta=self.settings.eta,
            seed=seed,
        )
        if len(axes.classes) == len(_ANSWERS):
            return FittedInfectedFirst(axes, detector, None)
        rows = AMONG_INFECTED.rows([scans[k] for k in np.flatnonzero(infected).tolist()])
        return FittedInfectedFirst(axes, detector, LinearModel.fit(rows, labels[infected] - 1))

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedInfectedFirst:
        """Read both models."""
        parameters = read_parameters(path, axes, _Parameters, again=again)
        detector = parse_booster(parameters["detector"], source=str(path))
        predict_probabilities(detector, pd.DataFrame(columns=FEW_FEATURES.columns(axes)))  # compares the features
        classifier = parameters["classifier"]
        if classifier is None:
            return FittedInfectedFirst(axes, detector, None)
        n_numbers, n_diseases = len(AMONG_INFECTED.columns(axes)), len(axes.classes) - 1
        model = LinearModel.of(classifier, n_numbers=n_numbers, n_classes=n_diseases, path=path)
        return FittedInfectedFirst(axes, detector, model)


def _features(scans: Sequence[ScanArray], axes: Axes) -> pd.DataFrame:
    return pd.DataFrame(FEW_FEATURES.rows(scans), columns=FEW_FEATURES.columns(axes))
