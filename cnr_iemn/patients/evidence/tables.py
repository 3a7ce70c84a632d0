"""The paper's Tables 1 and 2 and Figure 4 for this cohort, from metrics.json alone.

The paper's figures stand beside them where both are of the real COVID-CT-MD.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cnr_iemn.patients.evidence.cells import INTERVAL, NONE, interval_text, percent, with_interval
from cnr_iemn.patients.intervals import Estimate, proportion_intervals
from cnr_iemn.patients.out_of_fold import OUT_OF_FOLD, PAPER
from cnr_iemn.registry import BACKBONES, PAPER_COHORT, PAPER_ENSEMBLE_ACCURACY, PAPER_SENSITIVITY

SELECTED = "selected on this set"


_Entry = tuple[str, Mapping[str, Any], Estimate | None, str, str]
"""Name, scores, interval of the accuracy, the paper's figure, note."""


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
        caption = Text(self.caption) if self.caption else None
        # no lines between columns: eight of them are to fit into 80 characters
        table = Table(title=Text(heading), caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for position, cells in enumerate(zip(self.columns, *self.rows, strict=True)):
            longest = max((len(word) for cell in cells for word in re.findall(r"\[[^]]*\]\S*|\S+", cell)), default=1)
            if position == 0 or cells[0] == "note":
                table.add_column(Text(cells[0]), min_width=longest)
            else:  # as narrow as its longest word or interval, which leaves the names their room
                table.add_column(Text(cells[0]), justify="right", width=longest)
        for row in self.rows:
            table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
        return table


def result_tables(metrics: Mapping[str, Any]) -> tuple[ResultTable, ResultTable, ResultTable]:
    """Return Table 1, Table 2 and Figure 4 of the paper for the study of this metrics.json."""
    return slice_table(metrics), scan_table(metrics), confusion_table(metrics)


def slice_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Table 1: figures of the validation slices, of backbones and slice baselines, in percent."""
    slices = metrics["slices"]
    entries: list[_Entry] = [
        (
            model_title(model),
            scores,
            scores["accuracy_interval"],
            _paper(model, "paper_slice_accuracy"),
            _note(metrics, model),
        )
        for model, scores in slices.items()
    ]
    title = f"Table 1. Slices, %. {metrics['cohort']}, {next(iter(slices.values()))['n_slices']} validation slices"
    rows = _rows(metrics, entries, metrics["slice_baselines"])
    caption = f"{INTERVAL}: patients resampled with all their slices, which are alike; networks as they are."
    return ResultTable(title, _columns(metrics, "SPGC validation"), rows, metrics.get("notice"), caption)


def scan_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Table 2: figures of the validation scans, of backbones, ensemble and baselines, in percent."""
    how = "" if metrics["method"] == PAPER else f", features {metrics['method'].replace('_', ' ')}"
    entries: list[_Entry] = [
        (
            f"{model_title(model)} features",
            scores,
            _wilson(scores),
            _paper(model, "paper_scan_accuracy"),
            _scan_note(metrics, model),
        )
        for model, scores in metrics["backbones"].items()
    ]
    if len(metrics["models"]) > 1:
        paper = f"{PAPER_ENSEMBLE_ACCURACY:.2f}" if is_paper_ensemble(metrics) else NONE
        note = _scan_note(metrics, *metrics["models"])
        entries.append((ensemble_title(metrics), metrics, _wilson(metrics), paper, note))
    rows = _rows(metrics, entries, metrics["baselines"])
    caption = (
        f"{ensemble_title(metrics)} against the most frequent class: exact binomial p = {metrics['majority_p']:.2g}. "
        f"{INTERVAL}: Wilson's."
    )
    title = f"Table 2. Scans, %{how}. {metrics['cohort']}, {metrics['n_patients']} validation scans"
    return ResultTable(title, _columns(metrics, "SPGC validation, 98 scans"), rows, metrics.get("notice"), caption)


def confusion_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return Figure 4: a row for each true class, counts by predicted class and the sensitivity in percent."""
    classes, intervals = metrics["classes"], metrics["intervals"]["wilson"]["sensitivity"]
    beside = beside_the_paper(metrics)
    rows = tuple(
        (
            name,
            *(str(count) for count in counts),
            percent(metrics["sensitivity"][name]),
            interval_text(intervals[name]),
            *([f"{PAPER_SENSITIVITY[name]:.2f}" if is_paper_ensemble(metrics) else NONE] if beside else []),
        )
        for name, counts in zip(classes, metrics["confusion_matrix"], strict=True)
    )
    columns = (
        "true class",
        *(f"predicted {name}" for name in classes),
        "sensitivity, %",
        INTERVAL,
        *(["paper: SPGC validation, 98 scans: sensitivity, %"] if beside else []),
    )
    note = _scan_note(metrics, *metrics["models"]) or None
    title = f"Figure 4. {ensemble_title(metrics)}, {metrics['cohort']}, {metrics['n_patients']} validation scans"
    return ResultTable(title, columns, rows, metrics.get("notice"), note)


def beside_the_paper(metrics: Mapping[str, Any]) -> bool:
    """Tell whether the paper's figures may stand beside these: both are of COVID-CT-MD, of its real scans."""
    return metrics["cohort"] == PAPER_COHORT and "notice" not in metrics


def _columns(metrics: Mapping[str, Any], paper: str) -> tuple[str, ...]:
    recalls = (f"recall {name}" for name in metrics["classes"])
    figures = f"accuracy, {INTERVAL}", "balanced accuracy", *recalls
    return ("model", *figures, *([f"paper: {paper}: accuracy"] if beside_the_paper(metrics) else []), "note")


def _rows(
    metrics: Mapping[str, Any], entries: list[_Entry], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], ...]:
    """Return a row of cells for each entry, then for each baseline."""
    simple: list[_Entry] = [
        (f"baseline: {name}", scores, _wilson(scores) if "n_patients" in scores else None, NONE, "")
        for name, scores in baselines.items()
    ]
    beside = beside_the_paper(metrics)
    return tuple(
        (
            name,
            percent(scores["accuracy"]) if interval is None else with_interval(interval),
            percent(scores["balanced_accuracy"]),
            *(percent(scores["sensitivity"][label]) for label in metrics["classes"]),
            *([paper] if beside else []),
            note,
        )
        for name, scores, interval, paper, note in (*entries, *simple)
    )


def _wilson(scores: Mapping[str, Any]) -> Estimate:
    return proportion_intervals(scores["confusion_matrix"], list(scores["sensitivity"]))["accuracy"]


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
    return f"{getattr(BACKBONES[model], figure):.2f}" if model in BACKBONES else NONE


def _note(metrics: Mapping[str, Any], *models: str) -> str:
    """Mark figures of networks whose checkpoint was chosen on the very slices that are counted."""
    return SELECTED if any(metrics["checkpoints"][model] == "best" for model in models) else ""


def _scan_note(metrics: Mapping[str, Any], *models: str) -> str:
    """Mark figures of scans likewise; out of fold no checkpoint is chosen."""
    return "" if metrics["method"] == OUT_OF_FOLD else _note(metrics, *models)
