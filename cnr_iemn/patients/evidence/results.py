"""Stage 2 from saved predictions to its figures, and the files that hold them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import xgboost

from cnr_iemn.files import write_text_atomic
from cnr_iemn.patients.answers import Answers, train_answers
from cnr_iemn.patients.baselines import patient_baselines, slice_baselines
from cnr_iemn.patients.booster import save_booster
from cnr_iemn.patients.contributions import Contributions, contributions
from cnr_iemn.patients.evaluation import Evaluation, binomial_p, slice_accuracy
from cnr_iemn.patients.evidence.beside import Wanted, gather_evidence
from cnr_iemn.patients.evidence.comparisons import compare_with
from cnr_iemn.patients.frozen import FrozenCalibration, add_calibrated
from cnr_iemn.patients.group_features import feature_columns
from cnr_iemn.patients.methods import methods_with
from cnr_iemn.patients.out_of_fold import OUT_OF_FOLD, Folds, ways_to_features
from cnr_iemn.patients.parquet import write_parquet
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.patients.slice_sets import SliceSets, out_of_fold_sets, paper_sets
from cnr_iemn.patients.summaries import ScanSummary
from cnr_iemn.records import SCHEMA_VERSION, VALIDATION
from cnr_iemn.registry import PHANTOM_NOTICE

_NOTHING_MORE = Wanted()


@dataclass(frozen=True)
class Results:
    """What stage 2 has learnt and how well it answers.

    ``metrics``: JSON-ready, all fractions 0 to 1. ``patients``: one row a scan, training and validation. ``features``:
    ``Features.as_table``. ``booster``: trained on those of the training scans. ``calibration``: its temperature and
    threshold. ``contributions``: to its answers for the validation scans. ``slices``: as the networks of the declared
    way see them. ``seconds``: of the evidence, part by part.
    """

    metrics: dict[str, Any]
    patients: pd.DataFrame
    features: pd.DataFrame
    booster: xgboost.Booster
    calibration: FrozenCalibration | None
    contributions: Contributions
    slices: SliceSets
    seconds: dict[str, float]


def assemble_results(
    predictions: Mapping[str, Predictions],
    summaries: Mapping[str, ScanSummary],
    *,
    cohort: str,
    folds: Folds | None = None,
    wanted: Wanted = _NOTHING_MORE,
    shortcuts: pd.DataFrame | None = None,
    rounds: int = 100,
    max_depth: int = 6,
    eta: float = 0.3,
    seed: int = 0,
) -> Results:
    """Train XGBoost on the training scans; judge it, each backbone alone and each baseline on the validation scans.

    ``predictions``: by model, in ensemble order. ``summaries``: by scan_id, every scan of the cohort. ``cohort``: its
    name, for the tables. ``folds``: predictions of the fold networks; with them the booster that is kept, and every
    figure but those of ``arms``, are out of fold. ``wanted``: evidence beside the figures. ``shortcuts``: of every
    scan, by scan_id, for the audit. The other arguments are those of ``train_booster``. Raises RunError where the
    predictions do not fit together, a class has no training scan or no scan is held out.
    """
    first = next(iter(predictions.values()))
    classes, scans = first.metadata.classes, first.scans
    learn = partial(train_answers, scans=scans, classes=classes, rounds=rounds, max_depth=max_depth, eta=eta, seed=seed)
    methods = methods_with(rounds=rounds, max_depth=max_depth, eta=eta, seed=seed)
    ways = ways_to_features(predictions, folds)
    arms = {name: learn(features) for name, features in ways.items()}
    declared, features = next(iter(ways.items()))
    chosen = arms[declared]
    alone = {name: learn(features.only(feature_columns(name, classes))) for name in predictions}
    evaluation = chosen.evaluation(classes)
    sets = out_of_fold_sets(folds) if folds else paper_sets(predictions)
    evidence = gather_evidence(chosen, features, sets, scans, classes, learn, methods, wanted, shortcuts, seed=seed)
    held_out = [table.loc[chosen.held_out.index] for table in features.answering]
    explained = contributions(chosen.booster, held_out, classes=classes, models=tuple(predictions))
    metrics = {
        **_about(predictions, declared, cohort),
        "folds": None if folds is None else len(folds),
        "n_features": features.training.shape[1],
        **evaluation,
        **chosen.uncertainty(classes, seed=seed),
        "majority_p": _majority_p(evaluation),
        **evidence.values,
        "contributions": explained.summary(),
        **_arm_figures(arms, declared, predictions, classes, seed=seed),
        "backbones": {name: each.evaluation(classes) for name, each in alone.items()},
        "comparisons": compare_with(chosen.correct, {name: each.correct for name, each in alone.items()}),
        "baselines": patient_baselines(summaries, _column(scans, "label"), _column(scans, "split"), classes, seed=seed),
        "slices": {name: slice_accuracy(each) for name, each in predictions.items()},
        "slice_baselines": slice_baselines(first, summaries),
    }
    today = datetime.now(UTC).date().isoformat()
    frozen = FrozenCalibration.of(evidence.values["calibration"], cohort=cohort, date=today)
    patients, table = add_calibrated(chosen.patients, frozen, classes), features.as_table(scans["fold"])
    return Results(metrics, patients, table, chosen.booster, frozen, explained, sets, evidence.seconds)


def _about(predictions: Mapping[str, Predictions], declared: str, cohort: str) -> dict[str, Any]:
    """Return what the figures are of."""
    first = next(iter(predictions.values())).metadata
    return {
        **({"notice": PHANTOM_NOTICE} if first.phantom else {}),
        "schema_version": SCHEMA_VERSION,
        "cohort": cohort,
        "classes": list(first.classes),
        "models": list(predictions),
        "checkpoints": {name: each.metadata.checkpoint for name, each in predictions.items()},
        "method": declared,
        "selected_on": _selected_on(predictions, declared),
    }


def _arm_figures(
    arms: Mapping[str, Answers],
    declared: str,
    predictions: Mapping[str, Predictions],
    classes: tuple[str, ...],
    *,
    seed: int,
) -> dict[str, Any]:
    """Return the figures of each way to make the features, and the declared one against each of the others."""
    others = {name: answers.correct for name, answers in arms.items() if name != declared}
    figures = {
        name: {
            "declared": name == declared,
            "selected_on": _selected_on(predictions, name),
            **answers.evaluation(classes),
            **answers.uncertainty(classes, seed=seed),
        }
        for name, answers in arms.items()
    }
    return {"arms": figures, "arm_comparisons": compare_with(arms[declared].correct, others)}


def _selected_on(predictions: Mapping[str, Predictions], way: str) -> str | None:
    """Return what has chosen the networks that score new scans: nothing out of fold, else their checkpoints tell."""
    best = any(each.metadata.checkpoint == "best" for each in predictions.values())
    return VALIDATION if best and way != OUT_OF_FOLD else None


def write_results(folder: Path, results: Results) -> None:
    """Write features.parquet, booster.ubj, patients.csv and, last, metrics.json; each whole or not at all."""
    notice = {"notice": results.metrics["notice"]} if "notice" in results.metrics else {}
    table = pa.Table.from_pandas(results.features, preserve_index=False)
    write_parquet(folder / "features.parquet", table, {**notice, "schema_version": SCHEMA_VERSION})
    save_booster(folder / "booster.ubj", results.booster)
    write_figures(folder, results.patients, results.metrics)


def write_figures(folder: Path, patients: pd.DataFrame, metrics: Mapping[str, Any]) -> None:
    """Write patients.csv and metrics.json. ``patients``: index scan_id; ``metrics``: JSON-ready."""
    notice = {"notice": metrics["notice"]} if "notice" in metrics else {}
    table = patients.reset_index()
    for name, value in {"schema_version": SCHEMA_VERSION, **notice}.items():
        table.insert(0, name, value)
    write_text_atomic(folder / "patients.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text_atomic(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False))


def _column(scans: pd.DataFrame, name: str) -> dict[str, str]:
    return dict(zip(scans.index, scans[name], strict=True))


def _majority_p(evaluation: Evaluation) -> float:
    """Return the exact p against always naming the class most frequent among these very scans."""
    matrix = np.array(evaluation["confusion_matrix"])
    return binomial_p(int(np.trace(matrix)), int(matrix.sum()), float(matrix.sum(axis=1).max() / matrix.sum()))
