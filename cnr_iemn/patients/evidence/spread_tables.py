"""How far the figures move with training patients, seeds and splits, as a table."""

from collections.abc import Callable, Mapping
from typing import Any

from cnr_iemn.patients.evidence.cells import interval_text, percent
from cnr_iemn.patients.evidence.spread import FIGURES
from cnr_iemn.patients.evidence.tables import SELECTED, ResultTable, ensemble_title

_TITLES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_auc": "macro AUC"}
_NOTES = {
    "seeds": "networks trained again with other seeds, same split",
    "splits": "all trained again on another split, other validation scans",
}


def spread_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the declared figures and what they become with other training patients, seeds and splits, in percent."""
    spread, classes = metrics["spread"], metrics["classes"]
    own = {**metrics, "macro_auc": metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"]}
    rows = [("declared", *_cells(own, classes, percent))]
    refits = spread["refits"]
    if refits is not None:
        rows += _summary_rows(f"{refits['n']} refits", refits, classes)
        rows.append((f"{refits['n']} refits, 5 to 95%", *_cells(refits, classes, interval_text)))
    for kind in ("seeds", "splits"):
        found = spread[kind]
        if found is not None:
            rows += [(name, *_cells(each, classes, percent)) for name, each in found["each"].items()]
            rows += _summary_rows(f"these {len(found['each'])} {kind}", found, classes)
    columns = ("stage 2", *_TITLES.values(), *(f"sensitivity {name}" for name in classes))
    title = f"How far {ensemble_title(metrics)}'s figures move with training, %"
    return ResultTable(title, columns, tuple(rows), metrics.get("notice"), _caption(metrics))


def _caption(metrics: Mapping[str, Any]) -> str:
    spread = metrics["spread"]
    parts = []
    refits = spread["refits"]
    if refits is not None:
        changed = refits["changed"]
        parts.append(
            "Refits: the booster on resamples of the training patients within their class, the networks as they are. A "
            "resample holds about two thirds of the patients, so that refits are a little worse. They give "
            f" {percent(changed['mean'])}% of the validation scans another class (5 to 95%: "
            f"{percent(changed['low'])} to {percent(changed['high'])}), and {percent(refits['changed_by_any'])}% get "
            "one from at least one refit."
        )
    parts += [f"{kind.capitalize()}: {note}." for kind, note in _NOTES.items() if spread[kind] is not None]
    parts.append("XGBoost's own seed changes nothing at these settings. All rows but the declared are exploratory.")
    if metrics["selected_on"]:
        parts.append(f"Every row: {SELECTED}.")
    return " ".join(parts)


def _summary_rows(name: str, summaries: Mapping[str, Any], classes: list[str]) -> list[tuple[str, ...]]:
    return [
        (f"{name}, mean", *_cells(summaries, classes, lambda summary: percent(summary["mean"]))),
        (f"{name}, sd", *_cells(summaries, classes, lambda summary: percent(summary["sd"]))),
    ]


def _cells(figures: Mapping[str, Any], classes: list[str], text: Callable[[Any], str]) -> tuple[str, ...]:
    values = [*(figures[name] for name in FIGURES), *(figures["sensitivity"][name] for name in classes)]
    return tuple(text(value) for value in values)
