"""Ablation of the training recipe: what each addition to the paper's changes on phantoms with few labels.

python -m benchmarks.recipe --disease clear --runs recipe --seeds 0 1 2

For each seed (of cohort, split and network) one small network is trained from scratch with each recipe.
Then stage-2 methods are compared on the last recipe's predictions. Finished runs are kept, so that an
interrupted study goes on. Validation scans; the difference of CAP recall is to the row that the addition starts from,
scans of all seeds together, with Tango's 95% interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import train
from benchmarks.common import make_parser, write_json
from cnr_iemn.constants import BOOSTER_METHOD, PHANTOM_NOTICE
from cnr_iemn.data.predictions.slice_predictions import Predictions, read_predictions
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes, paper_sets
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.statistics.metrics import most_probable
from cnr_iemn.statistics.paired_tests import compare_with

Floats = NDArray[np.float64]
MODEL, CAP, FOLDS = "resnet18", 2, 2
COMMON = {
    "experiment": "demo",
    "model": "timm",
    "model.name": MODEL,
    "model.weights": "none",
    "model.image_size": "48",
    "data.folds": str(FOLDS),
}
PAPER = {
    "balancing.copies": "{COVID-19: 3, CAP: 10}",
    "balancing.augment": "paper",
    "augmentation.jitter_probability": "0.2",
    "augmentation.flip_probability": "0.2",
    "augmentation.perspective_probability": "1.0",
    "augmentation.rotation_degrees": "30.0",
    "trainer.gamma": "1.5",
    "trainer.region_weight": "1.0",
}
BALANCED = {key: value for key, value in PAPER.items() if not key.startswith("balancing")}
WARPED = {key: value for key, value in BALANCED.items() if not key.startswith("trainer")}
LAST, ROUND_TWO = "flips and small shifts for warps", "pseudo-labels"


@dataclass(frozen=True)
class Recipe:
    """Settings beside ``COMMON``; what is not named is the demo's.

    ``base``: the row that it adds to. ``passes``: epochs in place of one, so that all rows take about as many steps.
    """

    settings: Mapping[str, str]
    base: str | None
    passes: int = 1


RECIPES = {
    "the paper's": Recipe(PAPER, None),
    "copies of every class, all warped": Recipe(BALANCED, "the paper's"),
    "cross-entropy, region task 0.1": Recipe(WARPED, "copies of every class, all warped"),
    LAST: Recipe({}, "cross-entropy, region task 0.1"),
    "sampling by class for copies": Recipe({"balancing.sampling": "classes"}, LAST, passes=2),
    "label smoothing 0.1": Recipe({"trainer.label_smoothing": "0.1"}, LAST),
    "mixup 0.2": Recipe({"augmentation.mixup": "0.2"}, LAST),
    "cutmix 1.0": Recipe({"augmentation.cutmix": "1.0"}, LAST),
    "position by sinusoids": Recipe({"model.position": "sinusoids"}, LAST),
    ROUND_TWO: Recipe({}, LAST),
}
STAGE2 = ("XGBoost on percentages, classes weighted", "XGBoost on mean probabilities", "attention over the slices")


@dataclass(frozen=True)
class Row:
    """Validation scans of one seed: class indices ``truth`` and ``predicted``, int64 [scans]; figures in percent.

    ``steps``: of the optimizer.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    steps: int
    balanced: float
    macro_auc: float
    slices: float

    @property
    def cap_recall(self) -> float:
        """Percent."""
        return 100 * float((self.predicted[self.truth == CAP] == CAP).mean())


@dataclass(frozen=True)
class Series:
    """The runs of one ablation. ``runs``: their folder."""

    runs: Path
    disease: str
    epochs: int

    def study(self, recipe: str, seed: int) -> str:
        """Return the study of a recipe and a seed."""
        return "-".join([str(list(RECIPES).index(recipe)), str(seed), self.disease, str(self.epochs)])

    def settings(self, recipe: str) -> dict[str, str]:
        """Return the settings of a recipe's training."""
        epochs = str(self.epochs * RECIPES[recipe].passes)
        cohort = {"data.phantom.disease": self.disease}
        return {**COMMON, **cohort, "trainer.max_epochs": epochs, **RECIPES[recipe].settings}


def train_once(series: Series, study: str, seed: int, settings: Mapping[str, str], fold: int | None = None) -> None:
    """Train a network unless it is finished. Raises SystemExit where training ends with an error."""
    tag = f"seed{seed}" + ("" if fold is None else f"-fold{fold}")
    record = RunFolder.of(series.runs, study, MODEL, tag).record()
    if record is not None and record["status"] == "finished":
        return
    seeds = {key: str(seed) for key in ("seed", "data.phantom.seed", "data.split.seed")}
    words = {**settings, **seeds, "runs": str(series.runs), "study": study}
    if fold is not None:
        words["data.fold"] = str(fold)
    code = train.main([f"{key}={value}" for key, value in words.items()])
    if code:
        raise SystemExit(code)


def train_recipe(series: Series, name: str, seed: int) -> None:
    """Train the network of a recipe; of pseudo-labels, first the networks of round one that answer for each fold."""
    settings = series.settings(name)
    if name == ROUND_TWO:
        first = series.study(LAST, seed)
        for fold in range(FOLDS):
            train_once(series, first, seed, series.settings(LAST), fold)
        settings["data.pseudo_labels"] = first
    train_once(series, series.study(name, seed), seed, settings)


def measure(series: Series, name: str, seed: int, method: str = BOOSTER_METHOD) -> Row:
    """Return the validation scans of a finished recipe by a stage-2 method."""
    run = RunFolder.of(series.runs, series.study(name, seed), MODEL, f"seed{seed}")
    predictions = read_predictions(run.predictions)
    scans, classes = predictions.scans, predictions.metadata.classes
    sets = paper_sets({MODEL: predictions}, None)
    training, validation = (scans.index[scans["split"] == side] for side in (TRAINING, VALIDATION))
    truth, labels = (
        np.array([classes.index(label) for label in scans.loc[index, "label"]]) for index in (validation, training)
    )
    axes = Axes((MODEL,), classes)
    fitted = METHODS[method].fit([sets[scan_id][0] for scan_id in training], labels, axes, seed=0)
    probabilities = predict_sets(fitted, {scan_id: sets[scan_id] for scan_id in validation})
    predicted = probabilities.argmax(axis=1)
    return Row(
        truth,
        predicted,
        int(pd.read_csv(run.path / "metrics.csv")["steps"].iloc[-1]),
        100 * float(balanced_accuracy_score(truth, predicted)),
        100 * float(roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")),
        slice_accuracy(predictions),
    )


def slice_accuracy(predictions: Predictions) -> float:
    """Return the balanced accuracy of the labelled validation slices, percent."""
    table = predictions.table
    labelled = ((table["split"] == VALIDATION) & table["slice_label"].notna()).to_numpy(dtype=bool)
    predicted = most_probable(predictions.probabilities[labelled], predictions.metadata.classes)
    return 100 * float(balanced_accuracy_score(table.loc[labelled, "slice_label"], predicted))


def add_row(table: Table, name: str, rows: list[Row], base: list[Row] | None) -> dict[str, object]:
    """Add a row to the table and return its figures."""
    figures = {
        key: [float(getattr(row, key)) for row in rows]
        for key in ("steps", "slices", "balanced", "macro_auc", "cap_recall")
    }
    cells = [f"{np.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})" for values in figures.values()]
    difference = ""
    if base is not None:
        correct, reference = (
            np.concatenate([row.predicted[row.truth == CAP] == CAP for row in seeds]) for seeds in (rows, base)
        )
        test = compare_with(correct, {"base": reference})["base"]
        difference = f"{100 * test['difference']:+.1f} [{100 * test['low']:+.1f}, {100 * test['high']:+.1f}]"
    table.add_row(name, *cells, difference)
    return {**figures, "difference": difference}


def main() -> None:
    """Train, print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("recipe"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--disease", choices=["clear", "published"], default="clear")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    series = Series(options.runs, options.disease, options.epochs)
    for seed in options.seeds:
        for name in RECIPES:
            train_recipe(series, name, seed)
    columns = ("recipe", "steps", "slices, balanced", "scans, balanced", "macro AUC", "CAP recall", "difference")
    table = Table(*columns, title=PHANTOM_NOTICE)
    rows = {name: [measure(series, name, seed) for seed in options.seeds] for name in RECIPES}
    report = {
        name: add_row(table, name, rows[name], None if recipe.base is None else rows[recipe.base])
        for name, recipe in RECIPES.items()
    }
    for base in (LAST, ROUND_TWO):
        for method in STAGE2:
            name = f"{base}; {method}"
            variants = [measure(series, base, seed, method) for seed in options.seeds]
            report[name] = add_row(table, name, variants, rows[base])
    Console(width=160).print(table)
    write_json(options.json, report)


if __name__ == "__main__":
    main()
