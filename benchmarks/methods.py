"""Comparison of aggregation methods by their sensitivity to CAP at equal sensitivity to COVID-19.

python -m benchmarks.methods --json methods.json              # simulated cohorts: not evidence
python -m benchmarks.methods --study runs/demo                # runs of stage 1; nothing is written there
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from benchmarks.common import make_parser, write_json
from benchmarks.simulated_cohorts import (
    CAP,
    COUNTS,
    COVID,
    MODELS,
    NORMAL,
    NOTICE,
    SimulatedCohort,
    error_correlations,
    simulate,
    slice_accuracy,
)
from cnr_iemn.constants import BACKBONES, BOOSTER_METHOD, PHANTOM_NOTICE, SPGC_CLASSES
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.evaluation.method_comparison import cross_validate
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.calibration import patient_folds
from cnr_iemn.stage2.methods.base import Method
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes, SliceSets, paper_sets
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.statistics.paired_tests import compare_with, holm

Floats = NDArray[np.float64]
_FLOOR = 1e-6  # rules can give a probability of 0


@dataclass(frozen=True)
class MethodPredictions:
    """Predictions of one method for the validation scans of one cohort: class indices, int64 [scans].

    Attributes:
        truth: The true classes.
        as_is: The most probable classes.
        trained: The classes with an offset on the log-odds of CAP against COVID-19 that gives as many correct COVID-19
            training scans, cross-validated, as the paper's method. A user can set this offset.
        equal: The classes with an offset that gives as many correct COVID-19 validation scans as the paper's method. A
            user cannot set this offset; it compares methods at equal sensitivity.
    """

    truth: NDArray[np.int64]
    as_is: NDArray[np.int64]
    trained: NDArray[np.int64]
    equal: NDArray[np.int64]

    def sensitivity(self, label: int, threshold: str = "equal") -> float:
        """Return the sensitivity to a class. ``threshold``: "as_is", "trained" or "equal"."""
        predicted: NDArray[np.int64] = getattr(self, threshold)
        return float((predicted[self.truth == label] == label).mean())


def find_offset(probabilities: Floats, labels: NDArray[np.int64], n_covid: int) -> float:
    """Return the offset of log P(CAP) with which ``n_covid`` COVID-19 scans are correct, or as many as possible.

    Args:
        probabilities: Out-of-sample probabilities, float64 [scans, 3]. A scan that is predicted Normal stays Normal at
            any offset.
        labels: Class indices, [scans].
        n_covid: Number of COVID-19 scans to predict correctly, 0 or more.

    Returns:
        The middle of the interval of offsets that give this number.
    """
    candidates = probabilities[(labels == COVID) & (probabilities.argmax(axis=1) != NORMAL)]
    margins = np.sort(_margins(candidates))[::-1]  # a scan is predicted COVID-19 up to its margin
    if n_covid < 1 or not len(margins):
        return 0.0
    last = margins[min(n_covid, len(margins)) - 1]
    return float((last + margins[n_covid]) / 2 if n_covid < len(margins) else last)


def predict_with_offset(probabilities: Floats, offset: float) -> NDArray[np.int64]:
    """Return the classes, int64 [scans], with an offset on log P(CAP). Scans that are predicted Normal stay Normal."""
    disease = np.where(_margins(probabilities) >= offset, COVID, CAP)
    return np.where(probabilities.argmax(axis=1) == NORMAL, NORMAL, disease)


def _margins(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, _FLOOR, None))
    return np.asarray(logs[:, COVID] - logs[:, CAP])


def predict_cohort(
    sets: SliceSets, scans: pd.DataFrame, methods: Mapping[str, Method] = METHODS, *, seed: int = 0
) -> dict[str, MethodPredictions]:
    """Return the predictions of each method. ``scans``: patient_id, split and label (SPGC classes) by scan_id."""
    training, validation = scans[scans["split"] == TRAINING], scans[scans["split"] == VALIDATION]
    labels, truth = (
        np.array([SPGC_CLASSES.index(k) for k in table["label"]], dtype=np.int64) for table in (training, validation)
    )
    arrays = [sets[scan_id][0] for scan_id in training.index]
    axes = Axes(tuple(f"model {k}" for k in range(len(arrays[0]))), SPGC_CLASSES)
    folds = patient_folds(training, seed=seed) or []
    training_probabilities = {
        name: cross_validate(method, arrays, labels, axes, folds, seed=seed) for name, method in methods.items()
    }
    held_out = {scan_id: sets[scan_id] for scan_id in validation.index}
    probabilities = {
        name: predict_sets(method.fit(arrays, labels, axes, seed=seed), held_out) for name, method in methods.items()
    }
    n_training = _count_correct_covid(training_probabilities[BOOSTER_METHOD], labels)
    n_validation = _count_correct_covid(probabilities[BOOSTER_METHOD], truth)
    return {
        name: MethodPredictions(
            truth,
            values.argmax(axis=1),
            predict_with_offset(values, find_offset(training_probabilities[name], labels, n_training)),
            predict_with_offset(values, find_offset(values, truth, n_validation)),
        )
        for name, values in probabilities.items()
    }


def _count_correct_covid(probabilities: Floats, labels: NDArray[np.int64]) -> int:
    return int((probabilities[labels == COVID].argmax(axis=1) == COVID).sum())


def study_error_model(
    model: str,
    repeats: int,
    methods: Mapping[str, Method] = METHODS,
    counts: Mapping[str, tuple[int, int, int]] = COUNTS,
) -> dict[str, Any]:
    """Return the results of an error model over ``repeats`` cohorts, for JSON."""
    cohorts: list[dict[str, MethodPredictions]] = []
    statistics: list[tuple[float, float, float]] = []
    start_time = time.perf_counter()
    for seed in range(repeats):
        cohort: SimulatedCohort = simulate(MODELS[model], seed, counts)
        statistics.append((*error_correlations(cohort), slice_accuracy(cohort)))
        cohorts.append(predict_cohort(cohort.sets, cohort.scans, methods))
    within, between, accuracy = np.mean(statistics, axis=0)
    paper = [cohort[BOOSTER_METHOD] for cohort in cohorts]
    rows = {name: _summarise([cohort[name] for cohort in cohorts], paper) for name in cohorts[0]}
    alternatives = [name for name in rows if name != BOOSTER_METHOD]
    for name, p in zip(alternatives, holm([rows[name]["p"] for name in alternatives]), strict=True):
        rows[name]["p_holm"] = p
    return {
        "notice": NOTICE,
        "description": MODELS[model].description,
        "cohorts": repeats,
        "intraclass_correlation": within,
        "backbone_error_correlation": between,
        "slice_accuracy": accuracy,
        "methods": rows,
        "seconds": time.perf_counter() - start_time,
    }


def _summarise(predictions: list[MethodPredictions], paper: list[MethodPredictions]) -> dict[str, Any]:
    """Return a method's mean sensitivities over the cohorts, and its paired differences from the paper's method."""

    def sensitivities(label: int, threshold: str, cohorts: list[MethodPredictions] = predictions) -> Floats:
        return np.array([cohort.sensitivity(label, threshold) for cohort in cohorts])

    def difference(label: int, threshold: str) -> list[float]:
        return _mean_with_interval(sensitivities(label, threshold) - sensitivities(label, threshold, paper))

    cap = sensitivities(CAP, "equal") - sensitivities(CAP, "equal", paper)
    return {
        "sensitivity": {
            threshold: {name: float(sensitivities(k, threshold).mean()) for k, name in enumerate(SPGC_CLASSES)}
            for threshold in ("as_is", "trained", "equal")
        },
        "cap_difference": {threshold: difference(CAP, threshold) for threshold in ("trained", "equal")},
        "covid_difference": {threshold: difference(COVID, threshold) for threshold in ("trained", "equal")},
        "cap_difference_of_one_cohort": np.quantile(cap, [0.05, 0.95]).tolist(),
        "p": float(ttest_1samp(cap, 0).pvalue) if cap.any() else 1.0,
    }


def _mean_with_interval(values: Floats) -> list[float]:
    """Return the mean and its 95% interval (Student's t)."""
    n, mean = len(values), values.mean()
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return [float(mean), float(mean - half), float(mean + half)]


def error_model_table(model: str, result: Mapping[str, Any]) -> Table:
    """Return the table of one error model, in percent and points."""
    table = Table(
        title=f"{NOTICE}. Model {model}: {result['description']}; {result['cohorts']} cohorts\ncorrelation of errors: "
        f"within a patient {result['intraclass_correlation']:.2f}, between backbones "
        f"{result['backbone_error_correlation']:.2f}; slice accuracy {100 * result['slice_accuracy']:.1f}%; "
        f"{result['seconds']:.0f} s"
    )
    for column in ("method", "as is: Normal / COVID-19 / CAP", "threshold on training: COVID-19, difference"):
        table.add_column(column)
    for column in ("CAP, difference", "equal COVID-19: CAP", "CAP, difference", "one cohort, 5 to 95%", "p, Holm"):
        table.add_column(column)
    for name, row in result["methods"].items():
        is_paper = name == BOOSTER_METHOD
        table.add_row(
            f"{name} (the paper's)" if is_paper else name,
            " / ".join(f"{100 * value:.1f}" for value in row["sensitivity"]["as_is"].values()),
            "" if is_paper else _points(row["covid_difference"]["trained"]),
            "" if is_paper else _points(row["cap_difference"]["trained"]),
            f"{100 * row['sensitivity']['equal']['CAP']:.1f}",
            "" if is_paper else _points(row["cap_difference"]["equal"]),
            "" if is_paper else "{:+.0f} to {:+.0f}".format(*(100 * k for k in row["cap_difference_of_one_cohort"])),
            "" if is_paper else f"{row['p_holm']:.2g}",
        )
    return table


def _points(values: list[float]) -> str:
    middle, low, high = (100 * value + 0.0 for value in values)
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def study_table(study: Path, tag: str) -> Table:
    """Return the table of a study's four backbones. It is one cohort: intervals are over its CAP scans (Tango)."""
    tables = {name: read_predictions(study / name / tag / "predictions.parquet") for name in BACKBONES}
    first = next(iter(tables.values()))
    predicted = predict_cohort(paper_sets(tables), first.scans)
    cap = next(iter(predicted.values())).truth == CAP
    correct = {name: predictions.equal[cap] == CAP for name, predictions in predicted.items()}
    comparisons = compare_with(correct.pop(BOOSTER_METHOD), correct)
    notice = f"{PHANTOM_NOTICE}. " if first.metadata.phantom else ""
    table = Table(title=f"{notice}{study}: {len(cap)} validation scans, {cap.sum()} of CAP")
    for column in ("method", "as is: Normal / COVID-19 / CAP", "threshold on training: COVID-19 / CAP"):
        table.add_column(column)
    for column in ("equal COVID-19: COVID-19 / CAP", "CAP, difference", "p, Holm"):
        table.add_column(column)
    for name, predictions in predicted.items():
        row = comparisons.get(name)
        table.add_row(
            name if row else f"{name} (the paper's)",
            " / ".join(f"{100 * predictions.sensitivity(k, 'as_is'):.1f}" for k in range(3)),
            *(
                " / ".join(f"{100 * predictions.sensitivity(k, threshold):.1f}" for k in (COVID, CAP))
                for threshold in ("trained", "equal")
            ),
            _points([-row["difference"], -row["high"], -row["low"]]) if row else "",
            f"{row['p_holm']:.2g}" if row else "",
        )
    return table


def main() -> None:
    """Print the tables and, with --json, write those of the simulated cohorts."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=40, help="cohorts of each error model, 2 or more")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--study", type=Path, help="runs/<study> with the four backbones, in place of simulations")
    parser.add_argument("--tag", default="seed0")
    options = parser.parse_args()
    console = Console(width=170)
    if options.study:
        console.print(study_table(options.study, options.tag))
        return
    results = {}
    for model in options.models:
        results[model] = study_error_model(model, options.repeats)
        console.print(error_model_table(model, results[model]))
        write_json(options.json, {"notice": NOTICE, "models": results})  # after each, as one takes minutes


if __name__ == "__main__":
    main()
