"""Tables of the ways from slices to patients: the declared one, the others, and the class that must not be missed."""

from collections.abc import Mapping
from typing import Any

from cnr_iemn.patients.evidence.cells import ends, interval_text, percent, signed
from cnr_iemn.patients.evidence.tables import ResultTable
from cnr_iemn.registry import BOOSTER, BOOSTER_METHOD


def method_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the ways from slices to patients; the first column is the one to choose by."""
    classes, choice = metrics["classes"], metrics["method_choice"]
    rows = []
    for name, each in metrics["methods"].items():
        against = each["declared_against_it"]
        sensitivities = (
            f"{percent(each['sensitivity'][label])} {interval_text(each['intervals']['sensitivity'][label])}"
            for label in classes
        )
        within = percent(each["within_training"])
        if each["within_training_sd"] is not None:
            within += f" ±{100 * each['within_training_sd']:.2f}"
        difference = "–" if each["confirmatory"] else f"{signed(-against['difference'])} {ends(against, sign=-1)}"
        rows.append((name, within, percent(each["accuracy"]), *sensitivities, difference, _role(metrics, name)))
    columns = (
        "method",
        "training scans: balanced accuracy",
        "accuracy",
        *(f"sensitivity {label}" for label in classes),
        "less the declared",
        "note",
    )
    title = "Ways from slices to patients, validation scans, %"
    return ResultTable(title, columns, tuple(rows), metrics.get("notice"), _caption(metrics, choice))


def _declared(metrics: Mapping[str, Any]) -> str:
    return str(BOOSTER_METHOD if metrics["confirmatory"] == BOOSTER else metrics["confirmatory"])


def _role(metrics: Mapping[str, Any], method: str) -> str:
    return "confirmatory" if method == _declared(metrics) else "exploratory"


def _caption(metrics: Mapping[str, Any], choice: Mapping[str, Any] | None) -> str:
    caption = f"Declared before the run: {_declared(metrics)}. "
    if choice is not None:
        again = f", cut {choice['repeats']} times, ± deviation over the cuts" if choice["repeats"] > 1 else ""
        caption += (
            f"On the training scans, in {choice['parts']} parts{again}, each scan is answered by what has learnt from "
            f"other patients: choose by that column, or the validation scans have selected. It would choose "
            f"{choice['chosen']}. "
        )
    return caption + f"predict.py and patients.csv answer by the booster ({BOOSTER_METHOD}), whatever is declared."


def operating_point_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return what a threshold fixed on training scans gives on the validation scans: the booster's, each method's."""
    own = metrics["operating_point"]
    others = {name: each["operating_point"] for name, each in (metrics["methods"] or {}).items()}
    rows = tuple(
        (
            name,
            f"{point['threshold']:.3f}",
            f"{percent(point['training_sensitivity'])} / {percent(point['training_specificity'])}",
            f"{percent(point['sensitivity']['value'])} {interval_text(point['sensitivity'])}",
            f"{percent(point['specificity']['value'])} {interval_text(point['specificity'])}",
            _role(metrics, name),
        )
        for name, point in ({BOOSTER_METHOD: own} | others).items()
    )
    columns = ("method", "threshold", "training scans: sensitivity / specificity", "sensitivity", "specificity", "note")
    caption = (
        f"{own['label']} from this probability on, fixed to find {percent(own['wanted_sensitivity'])}% of it on the "
        "training scans, each answered by what has learnt from other patients. Wilson's intervals."
    )
    title = f"{own['label']} at a threshold fixed on training scans, validation scans, %"
    return ResultTable(title, columns, rows, metrics.get("notice"), caption)
