"""XGBoost on the features of scans: the classifier of stage 2 (paper, section 2.2)."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import write_bytes_atomic

BOOSTER_FILE = "booster.ubj"
"""Name of a booster's file in the folder of an ensemble or bundle."""
_CLASSES = "classes"
_PLACE = re.compile(r"^\[[\d:]+\] \S+: ")  # XGBoost's messages begin with their place in its sources
# XGBoost reserves [, ] and < in feature names; escaping % too keeps the names unambiguous
_ESCAPES = str.maketrans({"%": "%25", "[": "%5B", "]": "%5D", "<": "%3C"})


def booster_parameters(*, n_classes: int, max_depth: int, eta: float, seed: int, threads: int) -> dict[str, object]:
    """Return every parameter of the training, written out.

    ``xgb.train`` and ``XGBClassifier`` have different defaults, and some releases estimate ``base_score`` from the
    data: no default is used.
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
    Raises RunError where a class has no training scan, a label is no class or a feature name is there twice.
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
    expected, names = list(booster.feature_names or []), _feature_names(features)
    if expected != names:
        pairs = zip(expected, names, strict=False)
        position = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(names)))
        first, second = (unquote(row[position]) if position < len(row) else "nothing" for row in (expected, names))
        raise RunError(
            f"The booster was trained on {len(expected)} features, {len(names)} were given; they differ first at "
            f"position {position}: trained on {first}, given {second}. Use the predictions of the same models in the "
            "order of ensemble.json, or run aggregate.py again."
        )
    if features.empty:
        return np.empty((0, len(booster_classes(booster))))
    data = xgboost.DMatrix(features.to_numpy(np.float64), feature_names=names, missing=np.nan)
    return np.asarray(booster.predict(data), dtype=np.float64).reshape(len(features), len(booster_classes(booster)))


def margin_contributions(booster: xgboost.Booster, features: pd.DataFrame) -> NDArray[np.float64]:
    """Return each feature's exact contribution to each class's margin (log-odds before the softmax).

    SHAP values of trees, computed by XGBoost (Lundberg et al., Nature Machine Intelligence 2, 2020): float64
    [scans, classes, features + 1]. The last is the class's base; the sum is the margin.
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
            f"No training scan is of class {', '.join(absent)}: the classifier cannot learn it. "
            "Use another split (data.split.seed, data.split.validation), add such scans or take the class out of the "
            "cohort's list."
        )
    return np.array([list(classes).index(label) for label in labels], dtype=np.int64)


def booster_classes(booster: xgboost.Booster) -> tuple[str, ...]:
    """Return the class names in the order of the probabilities. Raises RunError for a booster of another program."""
    text = booster.attr(_CLASSES)
    if text is None:
        raise RunError("The booster lists no classes: another program wrote it. Run aggregate.py again.")
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(text, strict=True)
    except ValidationError as error:
        raise RunError(f"The booster's classes, {text[:60]}, are damaged. Run aggregate.py again.") from error


def save_booster(path: Path, booster: xgboost.Booster) -> None:
    """Write the booster as UBJSON (.ubj), whole or not at all."""
    write_bytes_atomic(path, bytes(booster.save_raw(raw_format="ubj")))


def load_booster(path: Path) -> xgboost.Booster:
    """Read a booster of ``save_booster``. Raises RunError where it is missing or damaged."""
    if not path.is_file():
        raise RunError(f"There is no booster at {path}. Run aggregate.py for this study and ensemble first.")
    data = path.read_bytes()
    if not data:  # XGBoost ends the process on an empty file
        raise RunError(f"{path} is not a readable booster (it is empty). Run aggregate.py again.")
    return _parse_model(data, source=str(path))


def booster_document(booster: xgboost.Booster) -> dict[str, object]:
    """Return the booster as XGBoost's own JSON, to be part of another file."""
    return TypeAdapter(dict[str, object]).validate_json(bytes(booster.save_raw(raw_format="json")))


def parse_booster(document: dict[str, object], *, source: str) -> xgboost.Booster:
    """Return the booster of ``booster_document``, the same to the bit. Raises RunError where it is damaged."""
    return _parse_model(to_json(document), source=source)


def _parse_model(data: bytes, *, source: str) -> xgboost.Booster:
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
        booster_classes(booster)
    except (xgboost.core.XGBoostError, UnicodeDecodeError) as error:
        reason = _PLACE.sub("", str(error).strip().splitlines()[0])
        raise RunError(f"{source} is not a readable booster ({reason}). Run aggregate.py again.") from error
    return booster


def _feature_names(features: pd.DataFrame) -> list[str]:
    """Return the column names with the characters escaped that XGBoost reserves."""
    names = [str(name) for name in features.columns]
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise RunError(f"Feature names must be unique; given twice: {', '.join(twice[:5])}. Name each model once.")
    return [name.translate(_ESCAPES) for name in names]
