"""Difficulty of the phantom: the pipeline compared with each baseline and with the oracle, over several seeds.

Every study has its own seed for the cohort, the split and the networks:

for s in 0 1 2; do
  python train.py -m experiment=demo study=demo-$s seed=$s data.phantom.seed=$s data.split.seed=$s \
      model=resnext50,densenet161,inception_v3,wide_resnet50
done
python -m benchmarks.phantom_study --seeds 0 1 2
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, write_json
from benchmarks.phantom_oracle import oracle_auc
from cnr_iemn.constants import BACKBONES, PHANTOM_NOTICE
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.phantom.scan_spec import DISEASES, PUBLISHED
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.run_folder import finished_runs
from cnr_iemn.stage2.baselines import baseline_predictions, summarise_store
from cnr_iemn.stage2.booster import predict_probabilities, train_booster
from cnr_iemn.stage2.ensemble_runs import run_store
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.statistics.metrics import most_probable

RESAMPLES = 10_000


@dataclass(frozen=True)
class StudyResult:
    """Result of one study on its validation scans.

    Attributes:
        correct: Whether the pipeline is correct, bool [scans].
        baselines: Whether each baseline is correct, by name.
        auc: AUC of the pipeline's probability of CAP among COVID-19 and CAP.
    """

    correct: NDArray[np.bool_]
    baselines: dict[str, NDArray[np.bool_]]
    auc: float


def evaluate_study(runs: Path, study: str, seed: int) -> StudyResult:
    """Return the result of the ensemble of the four backbones of a study, and of each baseline."""
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
    baseline_classes = baseline_predictions(
        summarise_store(run_store(next(iter(folders.values()))), scans.index),
        scans["label"].to_dict(),
        scans["split"].to_dict(),
        classes,
    )
    baselines = {name: np.array(predicted) == labels for name, predicted in baseline_classes.items()}
    cap = probabilities[:, 2] / (probabilities[:, 1] + probabilities[:, 2])
    diseased = labels != "Normal"
    auc = float(roc_auc_score(labels[diseased] == "CAP", cap[diseased]))
    return StudyResult(np.array(most_probable(probabilities, classes)) == labels, baselines, auc)


def bootstrap_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean. ``differences``: one value for each patient, float64 [n]."""
    draws = np.random.default_rng(0).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the table of the studies and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo", help="study names before -<seed>")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--disease", choices=DISEASES, default=PUBLISHED, help="of the cohorts, for the oracle")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    studies = [evaluate_study(options.runs, f"{options.study}-{seed}", seed) for seed in options.seeds]
    pipeline = np.concatenate([study.correct for study in studies])
    title = f"{PHANTOM_NOTICE}; {options.disease} disease; {len(pipeline)} validation scans of {len(studies)} cohorts"
    table = Table("", "accuracy, %", "by seed", "pipeline minus baseline, points", "95% interval", title=title)
    table.add_row("pipeline", f"{100 * pipeline.mean():.1f}", _by_seed([study.correct for study in studies]), "", "")
    rows = {}
    for name in studies[0].baselines:
        baseline = [study.baselines[name] for study in studies]
        differences = 100.0 * (pipeline.astype(float) - np.concatenate(baseline))
        low, high = bootstrap_interval(differences)
        rows[name] = {
            "accuracy": float(np.mean(np.concatenate(baseline))),
            "difference": differences.mean(),
            "low": low,
            "high": high,
        }
        accuracy = f"{100 * rows[name]['accuracy']:.1f}"
        table.add_row(name, accuracy, _by_seed(baseline), f"{differences.mean():+.1f}", f"{low:+.1f} to {high:+.1f}")
    Console(width=120).print(table)
    oracles = [oracle_auc(scans=200, n_slices=(22, 26), seed=seed, disease=options.disease) for seed in options.seeds]
    print("COVID-19 against CAP, AUC by seed: pipeline", ", ".join(f"{study.auc:.3f}" for study in studies))
    print("                                   oracle  ", ", ".join(f"{auc:.3f}" for auc, _ in oracles))
    print("three-class accuracy of the oracle, %:     ", ", ".join(f"{100 * value:.1f}" for _, value in oracles))
    result = {"accuracy": [float(study.correct.mean()) for study in studies], "baselines": rows, "oracle": oracles}
    write_json(options.json, {**result, "auc": [study.auc for study in studies]})


def _by_seed(correct: list[NDArray[np.bool_]]) -> str:
    return ", ".join(f"{100 * values.mean():.1f}" for values in correct)


if __name__ == "__main__":
    main()
