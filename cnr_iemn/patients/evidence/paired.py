"""Two studies on the same scans, paired: which is right more often, and could that be chance?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.files import write_text_atomic
from cnr_iemn.patients.evaluation import score
from cnr_iemn.patients.evidence.cells import ends, signed, with_interval
from cnr_iemn.patients.evidence.comparisons import compare_with, paired_interval
from cnr_iemn.patients.evidence.tables import ResultTable
from cnr_iemn.patients.intervals import paired_bootstrap, patient_bootstrap, proportion_intervals
from cnr_iemn.records import SCHEMA_VERSION, VALIDATION, probability_columns

_ENOUGH = 10  # scans named in a message


@dataclass(frozen=True)
class Answered:
    """What an ensemble has answered: its name in messages, metrics.json, and the scans of patients.csv that count.

    ``patients``: index scan_id, with an answer each.
    """

    name: str
    metrics: dict[str, Any]
    patients: pd.DataFrame

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in order."""
        return tuple(self.metrics["classes"])


def compare_studies(runs: Path, study: str, ensemble: str, other: str, *, on: str) -> tuple[dict[str, Any], Path]:
    """Compare an ensemble with another one, write comparison-<other>.json, and return both.

    ``other``: a study, whose ensemble has the same name, or study/ensemble. ``on``: validation, or a set of
    ``external/``. Raises RunError as ``compare_answered`` does.
    """
    theirs, _, named = other.partition("/")
    pairs = (study, ensemble), (theirs, named or ensemble)
    if pairs[0] == pairs[1]:
        raise RunError(f"compare={other} is the ensemble itself: name another study, or study/ensemble.")
    folders = [runs / each / "ensembles" / name for each, name in pairs]
    made = "predict.py, and aggregate.py with evaluate= and labels=,"
    if on != VALIDATION:
        folders = [folder / "external" / on for folder in folders]
    first, second = (
        read_answered(
            folder,
            name=f"{each}/{name}",
            make=f"python aggregate.py study={each} ensemble={name}" if on == VALIDATION else made,
        )
        for folder, (each, name) in zip(folders, pairs, strict=True)
    )
    found = compare_answered(first, second, on=on)
    path = folders[0] / f"comparison-{other.replace('/', '-')}.json"
    write_text_atomic(path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    return found, path


def read_answered(folder: Path, *, name: str, make: str) -> Answered:
    """Return the validation scans of an ensemble's folder, or the answered scans of one of its external sets.

    ``make``: the command that writes the folder. Raises RunError where it is missing or of another version.
    """
    paths = folder / "metrics.json", folder / "patients.csv"
    if not all(path.is_file() for path in paths):
        raise RunError(f"There are no metrics.json and patients.csv in {folder}. Run {make} first.")
    metrics = json.loads(paths[0].read_text(encoding="utf-8"))
    if metrics.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{paths[0]} has schema_version {metrics.get('schema_version')}, this version reads {SCHEMA_VERSION}. Run "
            f"{make} again."
        )
    names = dict.fromkeys(("scan_id", "patient_id", "label", "predicted"), str)
    empty = {column: [""] for column in probability_columns(metrics["classes"])}  # elsewhere "NA" may be a name
    patients = pd.read_csv(paths[1], dtype=names, keep_default_na=False, na_values=empty).set_index("scan_id")
    chosen = patients["split"] == VALIDATION if "split" in patients else patients["predicted"] != ""
    return Answered(name, metrics, patients[chosen])


def compare_answered(first: Answered, second: Answered, *, on: str, seed: int = 0) -> dict[str, Any]:
    """Return the paired comparison of two ensembles, JSON-ready, differences first less second.

    ``on``: what the scans are called. ``accuracy``: both and the ``comparison`` (exact McNemar, Tango's interval);
    ``sensitivity``: the same by class; ``figures``: balanced accuracy, macro F1, macro AUC of both and their
    ``difference``, with intervals of one bootstrap over patients. Raises RunError where they are not of the same scans.
    """
    _check_same_scans(first, second, on)
    classes, ours = first.classes, first.patients
    theirs = second.patients.loc[ours.index]
    truth = np.array([classes.index(label) for label in ours["label"]], dtype=np.int64)
    owners = ours["patient_id"].tolist()
    told = tuple(each[probability_columns(classes)].to_numpy(dtype=np.float64) for each in (ours, theirs))
    right = tuple((each["predicted"] == each["label"]).to_numpy(dtype=bool) for each in (ours, theirs))
    intervals = [
        proportion_intervals(
            score(each["label"].tolist(), each["predicted"].tolist(), classes)["confusion_matrix"], classes
        )
        for each in (ours, theirs)
    ]
    figures = [patient_bootstrap(truth.tolist(), each, owners, seed=seed) for each in told]
    differences = paired_bootstrap(truth.tolist(), (told[0], told[1]), owners, seed=seed)
    notices = [each.metrics["notice"] for each in (first, second) if "notice" in each.metrics]
    return {
        **({"notice": notices[0]} if notices else {}),
        "schema_version": SCHEMA_VERSION,
        "first": first.name,
        "second": second.name,
        "on": on,
        "n": len(ours),
        "classes": list(classes),
        "accuracy": {
            "first": intervals[0]["accuracy"],
            "second": intervals[1]["accuracy"],
            "comparison": compare_with(right[0], {second.name: right[1]})[second.name],
        },
        "sensitivity": {
            name: {
                "first": intervals[0]["sensitivity"][name],
                "second": intervals[1]["sensitivity"][name],
                "difference": _difference(right[0][truth == k], right[1][truth == k]),
            }
            for k, name in enumerate(classes)
        },
        "figures": {
            name: {"first": figures[0][name], "second": figures[1][name], "difference": difference}
            for name, difference in differences.items()
            if name != "accuracy"
        },
    }


def _difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the paired difference of two shares with Tango's interval; None where there is no scan."""
    if len(ours) == 0:
        return {"value": None, "low": None, "high": None}
    wins, losses = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    low, high = paired_interval(wins, losses, len(ours))
    return {"value": (wins - losses) / len(ours), "low": low, "high": high}


def _check_same_scans(first: Answered, second: Answered, on: str) -> None:
    both = f"{first.name} and {second.name}"
    for key in ("cohort", "classes") if on == VALIDATION else ("classes",):
        mine, theirs = first.metrics[key], second.metrics[key]
        if mine != theirs:
            raise RunError(f"{both} cannot be compared: {key} {mine} and {theirs}. Compare studies of the same scans.")
    for here, there in ((first, second), (second, first)):
        alone = here.patients.index.difference(there.patients.index)
        if len(alone):
            raise RunError(
                f"{both} cannot be compared, for they do not answer for the same scans ({on}): only {here.name} for "
                f"{_listed(alone.tolist())}. Train both on one split (data.split.file, data.split.seed), or score both "
                "on one external set and compare on that (compare_on=)."
            )
    theirs = second.patients.loc[first.patients.index]
    for name in ("label", "patient_id"):
        differ = first.patients.index[first.patients[name] != theirs[name]]
        if len(differ):
            entries = [f"{k} ({first.patients.loc[k, name]}, {theirs.loc[k, name]})" for k in differ]
            raise RunError(
                f"{both} cannot be compared, for they disagree on the {name} of {_listed(entries)}. Correct the one "
                "that is wrong and run it again."
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _ENOUGH} more" if len(names) > _ENOUGH else ""
    return f"{', '.join(names[:_ENOUGH])}{more}"


def paired_table(found: dict[str, Any]) -> ResultTable:
    """Return both ensembles' figures and the paired differences, in percent."""
    accuracy = found["accuracy"]
    test = accuracy["comparison"]
    rows = [
        (
            "accuracy",
            *(with_interval(accuracy[each]) for each in ("first", "second")),
            f"{signed(test['difference'])} {ends(test)}",
            f"McNemar p = {test['p']:.2g} ({test['only_first']} : {test['only_second']})",
        )
    ]
    for name, each in found["sensitivity"].items():
        rows.append((f"sensitivity for {name}", *_cells(each), "Tango"))
    for name, each in found["figures"].items():
        rows.append((name.replace("_", " ").replace("f1", "F1").replace("auc", "AUC"), *_cells(each), "bootstrap"))
    columns = ("figure", found["first"], found["second"], "difference", "note")
    caption = (
        "McNemar: exact, of the scans that the first or the second alone has right; its difference with Tango's "
        "interval. Sensitivities are not corrected for their number. Bootstrap: patients drawn for both at once."
    )
    title = f"{found['first']} less {found['second']}, {found['on']}, {found['n']} scans, %"
    return ResultTable(title, columns, tuple(rows), found.get("notice"), caption)


def _cells(each: dict[str, Any]) -> tuple[str, str, str]:
    first, second = (with_interval(each[name]) for name in ("first", "second"))
    difference = each["difference"]
    known = difference["value"] is not None
    return first, second, f"{signed(difference['value'])} {ends(difference)}" if known else "–"
