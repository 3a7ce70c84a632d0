"""Stage 2 from saved predictions to its figures, and the files that hold them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost

from cnr_iemn.files import write_bytes_atomic, write_text_atomic
from cnr_iemn.patients.baselines import patient_baselines, slice_baselines
from cnr_iemn.patients.booster import predict_probabilities, save_booster, train_booster
from cnr_iemn.patients.evaluation import Evaluation, binomial_p, evaluate, most_probable, slice_accuracy
from cnr_iemn.patients.group_features import feature_columns, group_features
from cnr_iemn.patients.predictions import METADATA_KEY, Predictions
from cnr_iemn.patients.summaries import ScanSummary
from cnr_iemn.records import SCHEMA_VERSION, TRAINING, VALIDATION, probability_columns
from cnr_iemn.registry import PHANTOM_NOTICE


@dataclass(frozen=True)
class Results:
    """What stage 2 has learnt and how well it answers.

    ``metrics``: JSON-ready, all fractions 0 to 1. ``patients``: one row a scan, training and validation. ``features``:
    ``group_features``. ``booster``: trained on all of them.
    """

    metrics: dict[str, Any]
    patients: pd.DataFrame
    features: pd.DataFrame
    booster: xgboost.Booster


def assemble_results(
    predictions: Mapping[str, Predictions],
    summaries: Mapping[str, ScanSummary],
    *,
    cohort: str,
    rounds: int = 100,
    max_depth: int = 6,
    eta: float = 0.3,
    seed: int = 0,
) -> Results:
    """Train XGBoost on the training scans; judge it, each backbone alone and each baseline on the validation scans.

    ``predictions``: by model, in ensemble order. ``summaries``: by scan_id, every scan of the cohort. ``cohort``: its
    name, for the tables. The other arguments are those of ``train_booster``. Raises RunError where the predictions do
    not fit together, a class has no training scan or no scan is held out for validation.
    """
    features = group_features(predictions)
    first = next(iter(predictions.values()))
    classes, scans = first.metadata.classes, first.scans
    training, validation = scans["split"] == TRAINING, scans["split"] == VALIDATION

    def learn(columns: list[str]) -> tuple[xgboost.Booster, pd.DataFrame, Evaluation]:
        chosen, labels = features[columns], scans.loc[training, "label"].tolist()
        booster = train_booster(
            chosen[training], labels, classes, rounds=rounds, max_depth=max_depth, eta=eta, seed=seed
        )
        answers = _patients(scans, predict_probabilities(booster, chosen), classes)
        held_out = answers[validation]
        return booster, answers, evaluate(held_out["label"].tolist(), held_out["predicted"].tolist(), classes)

    booster, patients, evaluation = learn(list(features.columns))
    metrics = {
        **({"notice": PHANTOM_NOTICE} if first.metadata.phantom else {}),
        "schema_version": SCHEMA_VERSION,
        "cohort": cohort,
        "classes": list(classes),
        "models": list(predictions),
        "checkpoints": {name: each.metadata.checkpoint for name, each in predictions.items()},
        "selected_on": VALIDATION if any(each.metadata.checkpoint == "best" for each in predictions.values()) else None,
        "n_features": features.shape[1],
        **evaluation,
        "majority_p": _majority_p(evaluation),
        "backbones": {name: learn(feature_columns(name, classes))[2] for name in predictions},
        "baselines": patient_baselines(summaries, _column(scans, "label"), _column(scans, "split"), classes, seed=seed),
        "slices": {name: slice_accuracy(each) for name, each in predictions.items()},
        "slice_baselines": slice_baselines(first, summaries),
    }
    return Results(metrics, patients[training | validation], features, booster)


def write_results(folder: Path, results: Results) -> None:
    """Write features.parquet, booster.ubj, patients.csv and, last, metrics.json; each whole or not at all."""
    notice = {"notice": results.metrics["notice"]} if "notice" in results.metrics else {}
    about = json.dumps({**notice, "schema_version": SCHEMA_VERSION}).encode()
    table = pa.Table.from_pandas(results.features.rename_axis("scan_id").reset_index(), preserve_index=False)
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: about}), buffer, compression="zstd")
    write_bytes_atomic(folder / "features.parquet", buffer.getvalue().to_pybytes())
    save_booster(folder / "booster.ubj", results.booster)
    patients = results.patients.reset_index()
    for name, value in {"schema_version": SCHEMA_VERSION, **notice}.items():
        patients.insert(0, name, value)
    write_text_atomic(folder / "patients.csv", patients.to_csv(index=False, lineterminator="\n"))
    write_text_atomic(
        folder / "metrics.json", json.dumps(results.metrics, indent=1, ensure_ascii=False, allow_nan=False)
    )


def _column(scans: pd.DataFrame, name: str) -> dict[str, str]:
    return dict(zip(scans.index, scans[name], strict=True))


def _patients(
    scans: pd.DataFrame, probabilities: "np.ndarray[Any, np.dtype[np.float64]]", classes: tuple[str, ...]
) -> pd.DataFrame:
    answers = scans[["patient_id", "split", "label"]].assign(predicted=most_probable(probabilities, classes))
    answers[probability_columns(classes)] = probabilities
    return answers.assign(correct=answers["predicted"] == answers["label"])


def _majority_p(evaluation: Evaluation) -> float:
    """Return the exact p against always naming the class most frequent among these very scans."""
    matrix = np.array(evaluation["confusion_matrix"])
    return binomial_p(int(np.trace(matrix)), int(matrix.sum()), float(matrix.sum(axis=1).max() / matrix.sum()))
