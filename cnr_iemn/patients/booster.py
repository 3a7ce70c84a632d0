"""XGBoost on the features of scans: the classifier of stage 2 (paper, section 2.2). No other module imports it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.files import write_bytes_atomic

_CLASSES = "classes"
_FORBIDDEN = set("[]<")  # XGBoost keeps these for itself in feature names


def booster_parameters(*, n_classes: int, max_depth: int, eta: float, seed: int, threads: int) -> dict[str, object]:
    """Return every parameter of the training, written out.

    ``xgb.train`` and ``XGBClassifier`` have different defaults, and ``base_score`` is estimated from the data by some
    releases and not by others: nothing is left to them.
    """
    return {
        "objective": "multi:softprob",
        "num_class": n_classes,
        "base_score": 0.5,
        "booster": "gbtree",
        "tree_method": "hist",
        "device": "cpu",
        "max_bin": 256,
        "max_depth": max_depth,
        "eta": eta,
        "gamma": 0.0,
        "min_child_weight": 1.0,
        "max_delta_step": 0.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_lambda": 1.0,
        "reg_alpha": 0.0,
        "seed": seed,
        "nthread": threads,
    }


def train_booster(
    features: pd.DataFrame,
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    rounds: int = 100,
    max_depth: int = 6,
    eta: float = 0.3,
    seed: int = 0,
    threads: int = 1,
    weights: NDArray[np.float64] | None = None,
) -> xgboost.Booster:
    """Train multi-class gradient boosted trees; NaN features are missing values.

    ``features``: float [scans, features] with unique column names. ``labels``: class name of each row. ``classes``: all
    class names in order, kept in the booster. ``weights``: of the rows, float64. ``threads``: 0 takes all cores; a few
    hundred scans gain nothing by it.
    Raises RunError where a class has no training scan, a label is no class or a feature name cannot be used.
    """
    indices = class_indices(labels, classes)
    names = _feature_names(features)
    if len(features) != len(indices):
        raise RunError(f"There are {len(features)} rows of features and {len(indices)} labels. Give one label a row.")
    data = xgboost.DMatrix(
        features.to_numpy(np.float64), label=indices, weight=weights, feature_names=names, missing=np.nan
    )
    parameters = booster_parameters(n_classes=len(classes), max_depth=max_depth, eta=eta, seed=seed, threads=threads)
    booster = xgboost.train(parameters, data, num_boost_round=rounds)
    booster.set_attr(**{_CLASSES: json.dumps(list(classes), ensure_ascii=False)})
    return booster


def predict_probabilities(booster: xgboost.Booster, features: pd.DataFrame) -> NDArray[np.float64]:
    """Return class probabilities, float64 [scans, classes], in the booster's class order.

    Raises RunError where the columns are not the features the booster was trained on, in their order.
    """
    trained, given = list(booster.feature_names or []), _feature_names(features)
    if trained != given:
        pairs = zip(trained, given, strict=False)
        position = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(trained), len(given)))
        named = [names[position] if position < len(names) else "nothing" for names in (trained, given)]
        raise RunError(
            f"The booster was trained on {len(trained)} features, {len(given)} were given; they differ first at "
            f"position {position}: trained on {named[0]}, given {named[1]}. Use the predictions of the same models in "
            "the order of ensemble.json, or run aggregate.py again."
        )
    if features.empty:
        return np.empty((0, len(booster_classes(booster))))
    data = xgboost.DMatrix(features.to_numpy(np.float64), feature_names=given, missing=np.nan)
    return np.asarray(booster.predict(data), dtype=np.float64).reshape(len(features), len(booster_classes(booster)))


def mean_probabilities(booster: xgboost.Booster, tables: Sequence[pd.DataFrame]) -> NDArray[np.float64]:
    """Return the mean of the probabilities that several tables of the same scans get, float64 [scans, classes]."""
    return np.asarray(np.mean([predict_probabilities(booster, table) for table in tables], axis=0))


def margin_contributions(booster: xgboost.Booster, features: pd.DataFrame) -> NDArray[np.float64]:
    """Return what each feature adds to each class's margin (log-odds before the softmax), exactly.

    SHAP values of trees, as XGBoost computes them itself (Lundberg et al., Nature Machine Intelligence 2, 2020):
    float64 [scans, classes, features + 1], the last is the class's base; their sum is the margin.
    """
    data = xgboost.DMatrix(features.to_numpy(np.float64), feature_names=_feature_names(features), missing=np.nan)
    shape = len(features), len(booster_classes(booster)), features.shape[1] + 1
    return np.asarray(booster.predict(data, pred_contribs=True), dtype=np.float64).reshape(shape)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each label, int64. Raises RunError where a label is unknown or a class has no scan."""
    unknown = sorted({str(label) for label in labels} - set(classes))
    if unknown:
        raise RunError(
            f"Training scans carry the labels {', '.join(map(repr, unknown))}, the classes are {', '.join(classes)}. "
            "Correct the cohort's labels or its list of classes."
        )
    absent = [name for name in classes if name not in set(labels)]
    if absent:
        raise RunError(
            f"No training scan is of class {', '.join(absent)}: a classifier cannot learn what it never sees. "
            "Use another split (data.split.seed, data.split.validation), add such scans or take the class out of the "
            "cohort's list."
        )
    return np.array([list(classes).index(label) for label in labels], dtype=np.int64)


def booster_classes(booster: xgboost.Booster) -> tuple[str, ...]:
    """Return the class names in the order of the probabilities. Raises RunError for a booster of another program."""
    text = booster.attr(_CLASSES)
    if text is None:
        raise RunError("The booster does not say its classes, so it was not made here. Run aggregate.py again.")
    return tuple(json.loads(text))


def save_booster(path: Path, booster: xgboost.Booster) -> None:
    """Write the booster as UBJSON (.ubj), whole or not at all."""
    write_bytes_atomic(path, bytes(booster.save_raw(raw_format="ubj")))


def load_booster(path: Path) -> xgboost.Booster:
    """Read a booster of ``save_booster``. Raises RunError where it is missing or damaged."""
    if not path.is_file():
        raise RunError(f"There is no booster at {path}. Run aggregate.py for this study and ensemble first.")
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(path.read_bytes()))
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"{path} is not a readable booster ({reason}). Run aggregate.py again.") from error
    booster_classes(booster)
    return booster


def _feature_names(features: pd.DataFrame) -> list[str]:
    names = [str(name) for name in features.columns]
    unusable = [name for name in names if _FORBIDDEN & set(name)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if unusable or twice:
        raise RunError(
            f"Feature names must be unique and free of [, ] and <; given {', '.join((unusable or twice)[:5])}. "
            "Rename the class or the model."
        )
    return names
