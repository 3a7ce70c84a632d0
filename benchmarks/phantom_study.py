"""Is the phantom honest and hard enough? The pipeline against each baseline and the oracle, over several seeds.

python train.py -m experiment=demo seed=0,1,2 model=resnext50,densenet161,inception_v3,wide_resnet50
python -m benchmarks.phantom_study --study demo --seeds 0 1 2
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cnr_iemn.cohort.phantom.oracle import oracle_auc
from cnr_iemn.engine.ensembles import stored_summaries
from cnr_iemn.engine.runs import finished_runs
from cnr_iemn.patients.baselines import baseline_answers
from cnr_iemn.patients.booster import predict_probabilities, train_booster
from cnr_iemn.patients.evaluation import most_probable
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.patients.predictions import read_predictions
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BACKBONES, PHANTOM_NOTICE

RESAMPLES = 10_000


def right_answers(
    runs: Path, study: str, seed: int
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]], NDArray[np.float64], NDArray[np.str_]]:
    """Return which validation scans the ensemble and each baseline get right, bool [n]; CAP's probability; labels."""
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
        stored_summaries(folders, predictions), scans["label"].to_dict(), scans["split"].to_dict(), classes
    )
    right = {name: np.array(predicted) == labels for name, predicted in answers.items()}
    pair = probabilities[:, 2] / (probabilities[:, 1] + probabilities[:, 2])
    return np.array(most_probable(probabilities, classes)) == labels, right, pair, labels


def main() -> None:
    """Print the table of the study and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    from sklearn.metrics import roc_auc_score

    studied = [right_answers(words.runs, words.study, seed) for seed in words.seeds]
    ours = np.mean([right for right, *_ in studied], axis=0)  # [n], share of seeds that get a scan right
    table = Table("", "accuracy, %", "pipeline minus it, points", "95% interval", title=PHANTOM_NOTICE)
    table.add_row("pipeline, mean over seeds", f"{100 * ours.mean():.1f}", "", "")
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(ours), (RESAMPLES, len(ours)))  # patients with replacement, the same for all rows
    rows = {}
    for name, right in studied[0][1].items():
        paired = 100 * (ours - right)
        low, high = np.quantile(paired[chosen].mean(axis=1), [0.025, 0.975])
        rows[name] = {"accuracy": float(right.mean()), "difference": float(paired.mean()), "interval": [low, high]}
        table.add_row(name, f"{100 * right.mean():.1f}", f"{paired.mean():+.1f}", f"{low:+.1f} to {high:+.1f}")
    aucs = [
        float(roc_auc_score(labels[labels != "Normal"] == "CAP", pair[labels != "Normal"]))
        for _, _, pair, labels in studied
    ]
    oracles = [oracle_auc(scans=200, n_slices=(20, 24), seed=seed) for seed in words.seeds]
    Console(width=120).print(table)
    accuracies = [float(right.mean()) for right, *_ in studied]
    print(f"pipeline accuracy by seed: {', '.join(f'{100 * a:.1f}%' for a in accuracies)}; {len(ours)} scans")
    print(f"COVID-19 against CAP, AUC: pipeline {aucs}, oracle {[auc for auc, _ in oracles]}")
    print(f"three-class accuracy of the oracle: {[accuracy for _, accuracy in oracles]}")
    if words.json:
        result = {"accuracy": accuracies, "baselines": rows, "auc": aucs, "oracle": oracles}
        words.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
