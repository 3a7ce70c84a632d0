"""Paired comparison of two ensembles on the same scans."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NotRequired, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.external_metrics import UNCODED
from cnr_iemn.evaluation.scan_metrics import scan_metrics
from cnr_iemn.evaluation.study_metrics import Identity, Notice, read_identity, write_json
from cnr_iemn.schemas import SCHEMA_VERSION, VALIDATION, probability_columns
from cnr_iemn.statistics.confidence_intervals import Estimate, MetricName, paired_bootstrap, wilson
from cnr_iemn.statistics.paired_tests import Comparison, compare_with, paired_interval
from cnr_iemn.utils.shell_words import aggregate_command
from cnr_iemn.utils.spreadsheet import plain_cell

_MAX_NAMES = 10  # scans in a message
_BOOTSTRAPPED: tuple[MetricName, ...] = ("balanced_accuracy", "macro_f1", "macro_auc")


class PairedAccuracy(TypedDict):
    """The accuracy of both ensembles, and their exact McNemar test."""

    first: Estimate
    second: Estimate
    comparison: Comparison


class PairedMetric(TypedDict):
    """A metric of both ensembles, and its difference, first minus second."""

    first: Estimate
    second: Estimate
    difference: Estimate


@final
class StudyComparison(TypedDict):
    """comparison-<other>.json: ``on`` the validation scans or an external set; ``n`` scans that both answer.

    ``refused``: scans of the set that neither answers, by ``RefusalCode``. ``refused_as_wrong``: the accuracy with
    them, and Tango's interval of the difference; None where there are none. ``sensitivity``: by class, with Tango's
    interval of the difference. ``metrics``: balanced accuracy, macro F1 and macro AUC, with intervals of one bootstrap
    over patients.
    """

    notice: NotRequired[str]
    schema_version: int
    first: str
    second: str
    on: str
    n: int
    classes: list[str]
    accuracy: PairedAccuracy
    refused: dict[str, int]
    refused_as_wrong: PairedMetric | None
    sensitivity: dict[str, PairedMetric]
    metrics: dict[MetricName, PairedMetric]


@dataclass(frozen=True)
class EnsemblePredictions:
    """The predictions of an ensemble. ``name``: in messages. ``patients``: scans with a prediction, index scan_id.

    ``refused``: scans of an external set without one, with the same columns; the prediction is empty.
    """

    name: str
    identity: Identity
    patients: pd.DataFrame
    refused: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"code": []}))


def compare_studies(runs: Path, study: str, ensemble: str, other: str, *, on: str) -> tuple[StudyComparison, Path]:
    """Compare two ensembles, write comparison-<other>.json in the first one's folder, and return both.

    Args:
        runs: Folder of all runs.
        study: Of the first ensemble.
        ensemble: Its name.
        other: A study, whose ensemble has the same name, or study/ensemble.
        on: validation, or a set of ``external/``.

    Raises:
        RunError: As ``compare_predictions``, or where files are missing or damaged.
    """
    second_study, _, second_ensemble = other.partition("/")
    pairs = (study, ensemble), (second_study, second_ensemble or ensemble)
    if pairs[0] == pairs[1]:
        raise RunError(f"compare={other} is the ensemble itself. Give another study, or study/ensemble.")
    folders, ensembles = [], []
    for owner, name in pairs:
        folder, make = ensemble_folder(runs, owner, name, on=on)
        folders.append(folder)
        ensembles.append(read_ensemble_predictions(folder, name=f"{owner}/{name}", make=make))
    comparison = compare_predictions(ensembles[0], ensembles[1], on=on)
    path = folders[0] / f"comparison-{other.replace('/', '-')}.json"
    write_json(path, comparison)
    return comparison, path


def ensemble_folder(runs: Path, study: str, ensemble: str, *, on: str) -> tuple[Path, str]:
    """Return the folder with an ensemble's predictions of a set of scans, and the command that writes it."""
    folder = runs / study / "ensembles" / ensemble
    if on == VALIDATION:
        return folder, aggregate_command(study, ensemble, runs)
    return folder / "external" / on, "predict.py, and aggregate.py with evaluate= and labels=,"


def read_ensemble_predictions(folder: Path, *, name: str, make: str) -> EnsemblePredictions:
    """Return the validation scans of an ensemble's folder, or the scans of one of its external sets.

    ``make``: the command that writes the folder. Raises RunError where a file is missing, damaged or outdated.
    """
    if not all((folder / file).is_file() for file in ("metrics.json", "patients.csv")):
        raise RunError(f"There are no metrics.json and patients.csv in {folder}. Run {make} first.")
    again = f"Run {make} again."
    identity = read_identity(folder, again=again)
    patients = _read_patients(folder / "patients.csv", identity["classes"], again=again)
    if "split" in patients:
        return EnsemblePredictions(name, identity, patients[patients["split"] == VALIDATION])
    if "code" not in patients:  # of an earlier version
        patients["code"] = UNCODED
    predicted = patients["predicted"] != ""
    return EnsemblePredictions(name, identity, patients[predicted], patients[~predicted])


def _read_patients(path: Path, classes: Sequence[str], *, again: str) -> pd.DataFrame:
    names, numbers = ("scan_id", "patient_id", "label", "predicted"), probability_columns(list(classes))
    empty = {column: [""] for column in numbers}  # elsewhere "NA" may be a name
    kinds = {**dict.fromkeys(names, str), **dict.fromkeys(numbers, float)}
    try:
        patients = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=empty)
    except ValueError as error:  # also of pandas' parser, and where it is not UTF-8
        raise RunError(f"{path} is damaged ({str(error).strip()}). {again}") from error
    missing = [column for column in (*names, *numbers) if column not in patients]
    if missing or patients["scan_id"].duplicated().any():
        what = f"the columns {', '.join(missing)} are missing" if missing else "a scan occurs twice"
        raise RunError(f"{path} is damaged: {what}. {again}")
    return patients.assign(**{name: patients[name].map(plain_cell) for name in names}).set_index("scan_id")


def compare_predictions(
    first: EnsemblePredictions, second: EnsemblePredictions, *, on: str, seed: int = 0
) -> StudyComparison:
    """Return the paired comparison of two ensembles. ``on``: the name of the scans. ``seed``: of the bootstrap.

    Raises RunError where the ensembles do not have the same scans, classes, labels and patients.
    """
    _check_same_scans(first, second, on)
    classes = tuple(first.identity["classes"])
    tables = first.patients, second.patients.loc[first.patients.index]
    truth = np.array([classes.index(label) for label in tables[0]["label"]], dtype=np.int64)
    patients = tables[0]["patient_id"].tolist()
    probabilities = [table[probability_columns(classes)].to_numpy(dtype=np.float64) for table in tables]
    correct = [(table["predicted"] == table["label"]).to_numpy(dtype=bool) for table in tables]
    intervals = [scan_metrics(table, classes, seed=seed)["intervals"] for table in tables]
    differences = paired_bootstrap(truth.tolist(), (probabilities[0], probabilities[1]), patients, seed=seed)
    notices = [source.identity["notice"] for source in (first, second) if "notice" in source.identity]
    head: Notice = {"notice": notices[0]} if notices else {}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "first": first.name,
        "second": second.name,
        "on": on,
        "n": len(truth),
        "classes": list(classes),
        "accuracy": {
            "first": intervals[0]["wilson"]["accuracy"],
            "second": intervals[1]["wilson"]["accuracy"],
            "comparison": compare_with(correct[0], {second.name: correct[1]})[second.name],
        },
        "refused": dict(Counter(first.refused["code"]).most_common()),
        "refused_as_wrong": _refused_as_wrong(correct[0], correct[1], len(first.refused))
        if len(first.refused)
        else None,
        "sensitivity": {
            name: {
                "first": intervals[0]["wilson"]["sensitivity"][name],
                "second": intervals[1]["wilson"]["sensitivity"][name],
                "difference": _paired_difference(correct[0][truth == k], correct[1][truth == k]),
            }
            for k, name in enumerate(classes)
        },
        "metrics": {
            name: {
                "first": intervals[0]["patient_bootstrap"][name],
                "second": intervals[1]["patient_bootstrap"][name],
                "difference": differences[name],
            }
            for name in _BOOTSTRAPPED
        },
    }


def _refused_as_wrong(first: NDArray[np.bool_], second: NDArray[np.bool_], n_refused: int) -> PairedMetric:
    """Return the accuracies where ``n_refused`` further scans count as wrong for both."""
    first, second = (np.append(correct, np.zeros(n_refused, dtype=np.bool_)) for correct in (first, second))
    estimates = [wilson(int(correct.sum()), len(correct)) for correct in (first, second)]
    return {"first": estimates[0], "second": estimates[1], "difference": _paired_difference(first, second)}


def _paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Estimate:
    """Return the paired difference of two proportions with Tango's interval; None without scans."""
    if len(first) == 0:
        return {"value": None, "low": None, "high": None}
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    low, high = paired_interval(wins, losses, len(first))
    return {"value": (wins - losses) / len(first), "low": low, "high": high}


def _check_same_scans(first: EnsemblePredictions, second: EnsemblePredictions, on: str) -> None:
    both = f"{first.name} and {second.name}"
    keys: tuple[Literal["cohort", "classes"], ...] = ("cohort", "classes") if on == VALIDATION else ("classes",)
    for key in keys:
        values = first.identity[key], second.identity[key]
        if values[0] != values[1]:
            raise RunError(
                f"{both} cannot be compared: {key} {values[0]} and {values[1]}. Compare studies of the same scans."
            )
    for source, target in ((first, second), (second, first)):
        extra = source.patients.index.difference(target.patients.index)
        if len(extra):
            raise RunError(
                f"{both} cannot be compared: they do not predict the same scans ({on}): only {source.name} has "
                f"{_join(extra.tolist())}. Train both on one split (data.split.file, data.split.seed), or score both "
                "on one external set and compare on that (compare_on=)."
            )
    differ = first.refused.index.symmetric_difference(second.refused.index)
    if len(differ):
        raise RunError(
            f"{both} cannot be compared: only one of them was scored on {_join(differ.tolist())} ({on}), which it "
            "refused. Score both with the same label files."
        )
    table = second.patients.loc[first.patients.index]
    for name in ("label", "patient_id"):
        differ = first.patients.index[first.patients[name] != table[name]]
        if len(differ):
            entries = [f"{k} ({first.patients.loc[k, name]}, {table.loc[k, name]})" for k in differ]
            raise RunError(
                f"{both} cannot be compared: they disagree on the {name} of {_join(entries)}. Correct the one "
                "that is wrong and run it again."
            )


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"
