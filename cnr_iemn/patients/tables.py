"""The paper's Tables 1 and 2 and Figure 4 for this cohort, from metrics.json alone, with the paper's figures beside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from cnr_iemn.patients.intervals import CONFIDENCE, Estimate
from cnr_iemn.patients.out_of_fold import OUT_OF_FOLD, PAPER
from cnr_iemn.registry import BACKBONES, PAPER_ENSEMBLE_ACCURACY, PAPER_SENSITIVITY

_NONE = "–"
SELECTED = "selected on this set"
INTERVAL = f"{100 * CONFIDENCE:.0f}% interval"


@dataclass(frozen=True)
class ResultTable:
    """A table as plain text cells. ``notice``: heads the table where the cohort is a phantom. ``caption``: below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notice: str | None = None
    caption: str | None = None

    def rich(self) -> Table:
        """Return the table for a rich console; cells are text, never markup."""
        heading = f"{self.notice}\n{self.title}" if self.notice else self.title
        table = Table(title=Text(heading), caption=Text(self.caption) if self.caption else None)
        for position, cells in enumerate(zip(self.columns, *self.rows, strict=True)):
            if position == 0 or cells[0] == "note":
                table.add_column(Text(cells[0]))
            else:  # as narrow as its longest word or interval, which leaves the names their room
                longest = max(len(word) for cell in cells for word in re.findall(r"\[[^]]*\]\S*|\S+", cell))
                table.add_column(Text(cells[0]), justify="right", width=longest)
        for row in self.rows:
            table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
        return table


def result_tables(metrics: Mapping[str, Any]) -> tuple[ResultTable, ResultTable, ResultTable]:
    """Return Table 1, Table 2 and Figure 4 of the paper for the study of this metrics.json."""
    return slice_table(metrics), scan_table(metrics), confusion_table(metrics)


def slice_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Table 1: slice accuracy and balanced accuracy of backbones and slice baselines, in percent."""
    slices = metrics["slices"]
    entries = [
        (model_title(model), scores, _paper(model, "paper_slice_accuracy"), _note(metrics, model))
        for model, scores in slices.items()
    ]
    columns = _columns(metrics, f"{next(iter(slices.values()))['n_slices']} slices", "paper: SPGC validation")
    rows = _rows(entries, metrics["slice_baselines"])
    return ResultTable("Table 1. Slices, %", columns, rows, metrics.get("notice"))


def scan_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Table 2: scan accuracy and balanced accuracy of backbones, ensemble and baselines, in percent."""
    how = "" if metrics["method"] == PAPER else f", features {metrics['method'].replace('_', ' ')}"
    entries = [
        (f"{model_title(model)} features", scores, _paper(model, "paper_scan_accuracy"), _scan_note(metrics, model))
        for model, scores in metrics["backbones"].items()
    ]
    if len(metrics["models"]) > 1:
        paper = f"{PAPER_ENSEMBLE_ACCURACY:.2f}" if is_paper_ensemble(metrics) else _NONE
        entries.append((ensemble_title(metrics), metrics, paper, _scan_note(metrics, *metrics["models"])))
    columns = _columns(metrics, f"{metrics['n_patients']} scans", "paper: SPGC validation, 98 scans")
    rows = _rows(entries, metrics["baselines"])
    caption = (
        f"{ensemble_title(metrics)} against the most frequent class: exact binomial p = {metrics['majority_p']:.2g}"
    )
    return ResultTable(f"Table 2. Scans, %{how}", columns, rows, metrics.get("notice"), caption)


def confusion_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Figure 4: a row for each true class, counts by predicted class and the sensitivity in percent."""
    classes = metrics["classes"]
    paper = PAPER_SENSITIVITY if is_paper_ensemble(metrics) else {}
    rows = tuple(
        (
            name,
            *(str(count) for count in counts),
            percent(metrics["sensitivity"][name]),
            f"{paper[name]:.2f}" if name in paper else _NONE,
        )
        for name, counts in zip(classes, metrics["confusion_matrix"], strict=True)
    )
    here = f"this cohort: {metrics['cohort']}, validation, {metrics['n_patients']} scans"
    columns = (
        "true class",
        *(f"predicted {name}" for name in classes),
        f"{here}: sensitivity, %",
        "paper: SPGC validation, 98 scans: sensitivity, %",
    )
    note = _scan_note(metrics, *metrics["models"]) or None
    return ResultTable(f"Figure 4. {ensemble_title(metrics)}, scans", columns, rows, metrics.get("notice"), note)


def _columns(metrics: Mapping[str, Any], counted: str, paper: str) -> tuple[str, ...]:
    here = f"this cohort: {metrics['cohort']}, validation, {counted}"
    return ("model", f"{here}: accuracy", f"{here}: balanced accuracy", f"{paper}: accuracy", "note")


def _rows(
    entries: list[tuple[str, Mapping[str, Any], str, str]], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], ...]:
    """Return a row of cells for each entry (name, scores, the paper's figure, note), then for each baseline."""
    simple = [(f"baseline: {name}", scores, _NONE, "") for name, scores in baselines.items()]
    return tuple(
        (name, percent(scores["accuracy"]), percent(scores["balanced_accuracy"]), paper, note)
        for name, scores, paper, note in (*entries, *simple)
    )


def is_paper_ensemble(metrics: Mapping[str, Any]) -> bool:
    """Tell whether these are the four backbones of the paper, in its order."""
    return list(metrics["models"]) == list(BACKBONES)


def ensemble_title(metrics: Mapping[str, Any]) -> str:
    """Return what the tables call the ensemble."""
    return "CNR-IEMN" if is_paper_ensemble(metrics) else " + ".join(model_title(model) for model in metrics["models"])


def model_title(model: str) -> str:
    """Return what the paper calls a model, or its own name."""
    return BACKBONES[model].paper_name if model in BACKBONES else model


def _paper(model: str, figure: str) -> str:
    return f"{getattr(BACKBONES[model], figure):.2f}" if model in BACKBONES else _NONE


def _note(metrics: Mapping[str, Any], *models: str) -> str:
    """Mark figures of networks whose checkpoint was chosen on the very slices that are counted."""
    return SELECTED if any(metrics["checkpoints"][model] == "best" for model in models) else ""


def _scan_note(metrics: Mapping[str, Any], *models: str) -> str:
    """Mark figures of scans likewise; out of fold no checkpoint is chosen."""
    return "" if metrics["method"] == OUT_OF_FOLD else _note(metrics, *models)


def percent(fraction: float | None) -> str:
    """Return a fraction in percent, with two digits."""
    return _NONE if fraction is None else f"{100 * fraction:.2f}"


def interval(estimate: Estimate) -> str:
    """Return the ends of a fraction's interval in percent."""
    low, high = estimate["low"], estimate["high"]
    return _NONE if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def with_interval(estimate: Estimate) -> str:
    """Return a fraction with its interval in percent."""
    return _NONE if estimate["value"] is None else f"{percent(estimate['value'])} {interval(estimate)}"


def signed(fraction: float) -> str:
    """Return a difference of fractions in percent, with its sign."""
    return f"{100 * fraction + 0.0:+.2f}"  # adding 0 makes -0 a plain 0


def ends(difference: Mapping[str, Any], *, sign: int = 1) -> str:
    """Return low and high of a difference in percent. ``sign``: -1 for the difference the other way round."""
    low, high = sorted(100 * sign * difference[end] for end in ("low", "high"))
    return f"[{low:+.1f}, {high:+.1f}]"
