"""Multinomial logistic regression on a description of the scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from typing_extensions import TypedDict

from cnr_iemn.stage2.methods.base import (
    FittedMethod,
    Floats,
    GroupContributions,
    Matrix,
    Method,
    Numbers,
    array_of,
    read_parameters,
    write_parameters,
)
from cnr_iemn.stage2.methods.descriptions import Description
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray


class LinearParameters(TypedDict):
    """The numbers of a ``LinearModel``, JSON-ready."""

    fill: Numbers
    mean: Numbers
    scale: Numbers
    coefficients: Matrix
    intercepts: Numbers


@dataclass(frozen=True)
class LinearModel:
    """Standardised numbers, linear margins, softmax.

    ``fill``: replaces missing values, float64 [numbers]; ``mean``, ``scale``: standardise, float64 [numbers].
    ``coefficients``: float64 [classes, numbers]; ``intercepts``: float64 [classes].
    """

    fill: Floats
    mean: Floats
    scale: Floats
    coefficients: Floats
    intercepts: Floats

    @classmethod
    def fit(cls, values: Floats, labels: NDArray[np.int64]) -> "LinearModel":
        """Fit by scikit-learn; a missing value counts as the mean of its column.

        ``values``: float64 [scans, numbers]. ``labels``: 0 to the number of classes less one, all of which occur.
        """
        imputer = SimpleImputer(strategy="mean", keep_empty_features=True)
        scaler = StandardScaler()
        model = LogisticRegression(C=0.1, max_iter=5000)
        model.fit(scaler.fit_transform(imputer.fit_transform(values)), labels)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(coefficients) == 1:  # of two classes scikit-learn keeps the difference
            coefficients, intercepts = (np.concatenate([-half, half]) for half in (coefficients / 2, intercepts / 2))
        numbers = (imputer.statistics_, scaler.mean_, scaler.scale_, coefficients, intercepts)
        return cls(*(np.ascontiguousarray(array, dtype=np.float64) for array in numbers))

    def standardise(self, values: Floats) -> Floats:
        """Return the numbers as the coefficients take them, float64 [scans, numbers]."""
        return np.asarray((np.where(np.isnan(values), self.fill, values) - self.mean) / self.scale)

    def predict_proba(self, values: Floats) -> Floats:
        """Return class probabilities, float64 [scans, classes]."""
        return np.asarray(softmax(self.terms(values).sum(axis=2) + self.intercepts, axis=1))

    def terms(self, values: Floats) -> Floats:
        """Return each number's part of each margin, float64 [scans, classes, numbers].

        Their sum does not depend on how many scans are predicted together, as that of a matrix product would.
        """
        return np.asarray(self.standardise(values)[:, None, :] * self.coefficients)

    @property
    def parameters(self) -> LinearParameters:
        """The numbers, JSON-ready."""
        return {
            "fill": self.fill.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "coefficients": self.coefficients.tolist(),
            "intercepts": self.intercepts.tolist(),
        }

    @classmethod
    def of(cls, parameters: LinearParameters, *, n_numbers: int, n_classes: int, path: Path) -> "LinearModel":
        """Return the model of a file's parameters. Raises RunError where they have another shape."""
        return cls(
            fill=array_of(parameters["fill"], (n_numbers,), path=path),
            mean=array_of(parameters["mean"], (n_numbers,), path=path),
            scale=array_of(parameters["scale"], (n_numbers,), path=path),
            coefficients=array_of(parameters["coefficients"], (n_classes, n_numbers), path=path),
            intercepts=array_of(parameters["intercepts"], (n_classes,), path=path),
        )


@dataclass(frozen=True)
class FittedLogistic(FittedMethod):
    """A fitted regression."""

    axes: Axes
    description: Description
    model: LinearModel
    attribution: ClassVar[str] = "Contributions of a linear model: coefficient times distance from the training mean"

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes]."""
        return self.model.predict_proba(self.description.rows(scans))

    def contributions(self, scans: Sequence[ScanArray]) -> GroupContributions | None:
        """Return coefficient times standardised value, by group; the mean training scan contributes nothing."""
        terms = self.model.terms(self.description.rows(scans))
        return self.description.gather(terms, self.model.intercepts, self.axes)

    def save(self, path: Path) -> None:
        """Write the model as JSON."""
        write_parameters(path, self.axes, self.model.parameters)


@dataclass(frozen=True)
class Logistic(Method):
    """Logistic regression on a description of the scan."""

    description: Description

    def fit(
        self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0
    ) -> FittedLogistic:
        """Fit on the training scans; nothing is drawn."""
        return FittedLogistic(axes, self.description, LinearModel.fit(self.description.rows(scans), labels))

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedLogistic:
        """Read the regression."""
        parameters = read_parameters(path, axes, LinearParameters, again=again)
        n_numbers = len(self.description.columns(axes))
        model = LinearModel.of(parameters, n_numbers=n_numbers, n_classes=len(axes.classes), path=path)
        return FittedLogistic(axes, self.description, model)
