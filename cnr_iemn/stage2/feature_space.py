"""One small space for the deep features of all networks of a study, in which stage 2 can learn from them.

The features of two networks have nothing to do with each other: number 17 of one is not number 17 of another that was
trained without a fold. Of each model the features of the run on all training scans are reduced to principal components.
The features of a fold's network are mapped to them by ridge regression on the training scans outside that fold, which
both networks may have seen; the fold's own scans, which its network has not, are then mapped by what was learnt there.
No class is looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from cnr_iemn.data.predictions.slice_features import SliceFeatures
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING
from cnr_iemn.utils.atomic_io import write_bytes_atomic

Matrix = NDArray[np.float32]
PROJECTIONS = "projections.safetensors"
"""The file of a space, beside ensemble.json."""
COMPONENTS = 16
"""Of each model: 209 scans cannot support many more."""
MOST_SLICES = 10_000
"""From which a projection is learnt, spread evenly over the training slices: more change it by little."""
RIDGE = 0.1
"""Penalty of the regression, relative to the mean variance of a feature."""
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Projection:
    """An affine map. ``matrix``: float32 [features, components]; ``offset``: float32 [components]."""

    matrix: Matrix
    offset: Matrix

    def __call__(self, features: NDArray[np.float16]) -> Matrix:
        """Return the components of slices, float32 [n, components]. ``features``: float16 [n, features]."""
        return np.asarray(features.astype(np.float32) @ self.matrix + self.offset)


@dataclass(frozen=True)
class FeatureSpace:
    """``projections``: by the network's name (``network_name``), all with the same number of components."""

    projections: Mapping[str, Projection]

    @property
    def components(self) -> int:
        """Numbers of a slice and model."""
        return len(next(iter(self.projections.values())).offset)

    def channels(
        self, model: str, fold: int | None, probabilities: Matrix, features: NDArray[np.float16] | None
    ) -> Matrix:
        """Return the slices of one network as stage 2 reads them, float32 [n, channels].

        ``probabilities``: float32 [n, classes], or with the scores behind them. ``features``: float16 [n, features].
        Raises RunError where the features are missing, or not as many as the network's.
        """
        projection = self.projections[network_name(model, fold)]
        width = 0 if features is None else features.shape[1]
        if features is None or width != len(projection.matrix):
            raise RunError(
                f"{model} gives {width} features of a slice, and its projection takes {len(projection.matrix)}: they "
                "are of another network. Run aggregate.py again."
            )
        return np.hstack([probabilities, projection(features)])

    def save(self, path: Path) -> None:
        """Write the projections; the format cannot contain code."""
        tensors = {f"{name}/matrix": projection.matrix for name, projection in self.projections.items()}
        tensors |= {f"{name}/offset": projection.offset for name, projection in self.projections.items()}
        write_bytes_atomic(path, save(tensors))

    @classmethod
    def load(cls, path: Path, *, again: str) -> "FeatureSpace":
        """Read the projections. Raises RunError where the file is damaged. ``again``: the remedy, a sentence."""
        try:
            tensors = load(path.read_bytes())
            names = [key.removesuffix("/matrix") for key in tensors if key.endswith("/matrix")]
            projections = {name: Projection(tensors[f"{name}/matrix"], tensors[f"{name}/offset"]) for name in names}
        except (SafetensorError, KeyError) as error:
            raise RunError(f"{path} is damaged: {error}. {again}") from error
        widths = {shape for p in projections.values() for shape in (p.offset.shape, p.matrix.shape[1:])}
        if len(widths) != 1:
            raise RunError(f"{path} is damaged: its projections differ in shape. {again}")
        return cls(projections)


def network_name(model: str, fold: int | None) -> str:
    """Return the name of one network in a study: the model, and the fold that it has not seen."""
    return model if fold is None else f"{model}-fold{fold}"


def fit_feature_space(
    whole: Mapping[str, Predictions], folds: Mapping[int, Mapping[str, Predictions]] | None
) -> FeatureSpace:
    """Learn the projections of all networks of a study from its training scans.

    Args:
        whole: Of the networks trained on all training scans, by model.
        folds: Of those that hold out a fold, by fold and model; they must have passed ``check_folds``.

    Raises:
        RunError: A run keeps no features.
    """
    runs = [run for models in (whole, *(folds or {}).values()) for run in models.values()]
    n_slices = min(len(_training_rows(run)) for run in runs)
    components = min(COMPONENTS, n_slices, *(require_features(run).width for run in runs))
    return FeatureSpace(dict(_projections(whole, folds or {}, components)))


def require_features(run: Predictions) -> SliceFeatures:
    """Return the features of a run. Raises RunError where it keeps none."""
    if run.features is None:
        raise RunError(
            f"{run.metadata.model}'s run {run.metadata.tag} keeps no features of its slices, from which the primary "
            "method learns. Train it again with features=true (overwrite=true), or choose another primary_method."
        )
    return run.features


def _projections(
    whole: Mapping[str, Predictions], folds: Mapping[int, Mapping[str, Predictions]], components: int
) -> Iterator[tuple[str, Projection]]:
    for model, run in whole.items():
        rows = _training_rows(run)
        reference = _principal_components(_features(run, rows), components)
        yield network_name(model, None), reference
        target = reference(_features(run, rows))
        for fold, runs in folds.items():
            fold_rows = _training_rows(runs[model])  # the same slices in the same order
            outside = (runs[model].table["fold"].iloc[fold_rows] != fold).to_numpy(dtype=bool)
            yield (
                network_name(model, fold),
                _regression(_features(runs[model], fold_rows[outside]), target[outside]),
            )


def _features(run: Predictions, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    return require_features(run).select(rows).read()


def _training_rows(run: Predictions) -> NDArray[np.int64]:
    """Return positions of training slices in the table, scan after scan and head first."""
    table = run.table.reset_index(drop=True)
    training = table[table["split"] == TRAINING].sort_values(["scan_id", "slice_index"])
    rows = training.index.to_numpy(dtype=np.int64)
    return rows[:: -(-len(rows) // MOST_SLICES)]


def _principal_components(features: NDArray[np.float16], components: int) -> Projection:
    """Return the projection to principal components, divided by a common deviation: the first count most."""
    pca = PCA(components, svd_solver="covariance_eigh").fit(features.astype(np.float64))
    scale = max(float(np.sqrt(pca.explained_variance_.mean())), _SMALLEST_DEVIATION)
    return _projection(pca.components_.T / scale, -pca.mean_ @ pca.components_.T / scale)


def _regression(features: NDArray[np.float16], target: Matrix) -> Projection:
    values = features.astype(np.float64)
    variance = max(float(values.var(axis=0).mean()), _SMALLEST_DEVIATION**2)
    ridge = Ridge(alpha=RIDGE * variance * len(values), solver="cholesky").fit(values, target.astype(np.float64))
    return _projection(ridge.coef_.reshape(target.shape[1], -1).T, ridge.intercept_)


def _projection(matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> Projection:
    # of one layout in memory, whether learnt or read: a product rounds by it
    return Projection(np.ascontiguousarray(matrix, dtype=np.float32), np.ascontiguousarray(offset, dtype=np.float32))
