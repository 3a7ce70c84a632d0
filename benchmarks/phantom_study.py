"""Is the phantom honest and hard enough? The pipeline against each baseline and the oracle, over several seeds.

Every study has its own seed for the cohort, the split and the networks:

for s in 0 1 2; do
  python train.py -m experiment=demo study=demo-$s seed=$s data.phantom.seed=$s data.split.seed=$s \
      model=resnext50,densenet161,inception_v3,wide_resnet50
done
python -m benchmarks.phantom_study --seeds 0 1 2
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cnr_iemn.cohort.phantom.oracle import oracle_auc
from cnr_iemn.engine.ensembles import store_of, stored_summaries
from cnr_iemn.engine.runs import finished_runs
from cnr_iemn.patients.baselines import baseline_answers
from cnr_iemn.patients.booster import predict_probabilities, train_booster
from cnr_iemn.patients.evaluation import most_probable
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.patients.predictions import read_predictions
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BACKBONES, PHANTOM_NOTICE

RESAMPLES = 10_000


@dataclass(frozen=True)
class Answers:
    """One study's validation scans. ``right``: bool [n] of the pipeline; ``baselines``: the same by name.

    ``auc``: of the pipeline's probability of CAP among COVID-19 and CAP.
    """

    right: NDArray[np.bool_]
    baselines: dict[str, NDArray[np.bool_]]
    auc: float


def study_answers(runs: Path, study: str, seed: int) -> Answers:
    """Return what the four backbones of a study, joined, and each baseline answer for its validation scans."""
    from sklearn.metrics import roc_auc_score

    folders = finished_runs(runs, study, tuple(BACKBONES), f"seed{seed}")
    predictions = {model: read_predictions(run.predictions) for model, run in folders.items()}
    first = next(iter(predictions.values()))
    classes, scans = first.metadata.classes, first.scans
    features = group_features(predictions)
    training, validation = scans["split"] == TRAINING, scans["split"] == VALIDATION
    booster = train_booster(features[training], scans.loc[training, "label"].tolist(), classes)
    probabilities = predict_probabilities(booster, features[validation])
    labels = scans.loc[validation, "label"].to_numpy(dtype=str)
    answers = baseline_answers(
        stored_summaries(store_of(next(iter(folders.values()))), scans.index),
        scans["label"].to_dict(),
        scans["split"].to_dict(),
        classes,
    )
    right = {name: np.array(predicted) == labels for name, predicted in answers.items()}
    cap = probabilities[:, 2] / (probabilities[:, 1] + probabilities[:, 2])
    diseased = labels != "Normal"
    auc = float(roc_auc_score(labels[diseased] == "CAP", cap[diseased]))
    return Answers(np.array(most_probable(probabilities, classes)) == labels, right, auc)


def paired_interval(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of the mean over patients, float64 [n], drawn with replacement."""
    chosen = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
    low, high = np.quantile(difference[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the table of the studies and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo", help="study names before -<seed>")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    studies = [study_answers(words.runs, f"{words.study}-{seed}", seed) for seed in words.seeds]
    ours = np.concatenate([study.right for study in studies])
    title = f"{PHANTOM_NOTICE}; {len(ours)} validation scans of {len(studies)} cohorts"
    table = Table("", "accuracy, %", "by seed", "pipeline minus it, points", "95% interval", title=title)
    table.add_row("pipeline", f"{100 * ours.mean():.1f}", _by_seed([s.right for s in studies]), "", "")
    rows = {}
    for name in studies[0].baselines:
        theirs = [study.baselines[name] for study in studies]
        paired = 100.0 * (ours.astype(float) - np.concatenate(theirs))
        low, high = paired_interval(paired)
        rows[name] = {
            "accuracy": float(np.mean(np.concatenate(theirs))),
            "difference": paired.mean(),
            "low": low,
            "high": high,
        }
        accuracy = f"{100 * rows[name]['accuracy']:.1f}"
        table.add_row(name, accuracy, _by_seed(theirs), f"{paired.mean():+.1f}", f"{low:+.1f} to {high:+.1f}")
    Console(width=120).print(table)
    oracles = [oracle_auc(scans=200, n_slices=(22, 26), seed=seed) for seed in words.seeds]
    print("COVID-19 against CAP, AUC by seed: pipeline", ", ".join(f"{study.auc:.3f}" for study in studies))
    print("                                   oracle  ", ", ".join(f"{auc:.3f}" for auc, _ in oracles))
    print("three-class accuracy of the oracle, %:     ", ", ".join(f"{100 * value:.1f}" for _, value in oracles))
    if words.json:
        result = {"accuracy": [float(study.right.mean()) for study in studies], "baselines": rows, "oracle": oracles}
        words.json.write_text(json.dumps({**result, "auc": [s.auc for s in studies]}, indent=1), encoding="utf-8")


def _by_seed(right: list[NDArray[np.bool_]]) -> str:
    return ", ".join(f"{100 * values.mean():.1f}" for values in right)


if __name__ == "__main__":
    main()
