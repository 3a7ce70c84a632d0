"""Stage 2 with other numbers of groups of slices than the paper's 20, on the saved predictions of studies.

python -m benchmarks.group_count --studies demo-0 demo-1 demo-2

XGBoost is trained on the percentages of each study's training scans; slices a group: mean of the validation scans.
"""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, write_json
from cnr_iemn.constants import BACKBONES, N_GROUPS
from cnr_iemn.data.predictions.slice_predictions import Predictions, read_predictions
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.booster import predict_probabilities, train_booster
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.statistics.metrics import evaluate, most_probable


def study_predictions(runs: Path, study: str) -> dict[str, Predictions]:
    """Return the predictions of a study's four backbones, each with one run."""
    predictions = {}
    for model in BACKBONES:
        (folder,) = (runs / study / model).glob("seed*")
        predictions[model] = read_predictions(RunFolder.of(runs, study, model, folder.name).predictions)
    return predictions


def measure(predictions: dict[str, Predictions], n_groups: int) -> tuple[float, float, float]:
    """Return accuracy and balanced accuracy of the validation scans, 0 to 1, and their slices in a group."""
    first = predictions[next(iter(predictions))]
    classes, scans = first.metadata.classes, first.scans
    features = group_features(predictions, n_groups=n_groups)
    training, validation = scans["split"] == TRAINING, scans["split"] == VALIDATION
    booster = train_booster(features[training], scans.loc[training, "label"].tolist(), classes)
    predicted = most_probable(predict_probabilities(booster, features[validation]), classes)
    result = evaluate(scans.loc[validation, "label"].tolist(), predicted, classes)
    slices = first.table.groupby("scan_id").size()[scans.index[validation]].mean()
    return result["accuracy"], result["balanced_accuracy"], float(slices) / n_groups


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--studies", nargs="+", default=["demo"])
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 10, N_GROUPS])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    studies = [study_predictions(options.runs, study) for study in options.studies]
    table = Table("groups", "slices a group", "accuracy, % by study", "balanced accuracy, % by study")
    rows = {}
    for n_groups in options.groups:
        accuracies, balanced, slices = zip(*(measure(study, n_groups) for study in studies), strict=True)
        cells = [", ".join(f"{100 * value:.1f}" for value in values) for values in (accuracies, balanced)]
        table.add_row(str(n_groups), f"{np.mean(slices):.1f}", *cells)
        rows[n_groups] = {"accuracy": accuracies, "balanced_accuracy": balanced, "slices": slices}
    Console(width=120).print(table)
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
