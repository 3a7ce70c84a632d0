"""The table of the metrics with other training patients, seeds and splits."""

from collections.abc import Callable

from cnr_iemn.evaluation.study_metrics import Refits, Replicate, Stability, StudyMetrics, Summaries, Summary
from cnr_iemn.report.tables import SELECTED, ResultTable, percent, percentage, summary_interval
from cnr_iemn.report.tables.results import ensemble_title

_REPEAT_NOTES = {
    "seeds": "networks trained again with other seeds, same split",
    "splits": "all trained again on another split, other validation scans",
}


def stability_table(metrics: StudyMetrics) -> ResultTable:
    """Return the primary metrics, and those with other training patients, seeds and splits, in percent."""
    stability, classes = metrics["stability"], metrics["classes"]
    reference: Replicate = {
        "accuracy": metrics["accuracy"],
        "balanced_accuracy": metrics["balanced_accuracy"],
        "macro_auc": metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"],
        "sensitivity": metrics["sensitivity"],
    }
    rows = [("primary", *_replicate_cells(reference, classes))]
    refits = stability["refits"]
    if refits is not None:
        rows += _summary_rows(f"{refits['n']} refits", refits, classes)
        rows.append((f"{refits['n']} refits, 5 to 95%", *_summary_cells(refits, classes, summary_interval)))
    for kind, repeats in (("seeds", stability["seeds"]), ("splits", stability["splits"])):
        if repeats is not None:
            replicates = repeats["replicates"]
            rows += [(name, *_replicate_cells(replicate, classes)) for name, replicate in replicates.items()]
            rows += _summary_rows(f"{len(replicates)} {kind}", repeats, classes)
    columns = ("stage 2", "accuracy", "balanced accuracy", "macro AUC", *(f"sensitivity {name}" for name in classes))
    caption = _stability_caption(stability, metrics["selected_on"])
    title = f"Stability, {ensemble_title(metrics)}, %"
    return ResultTable(title, columns, tuple(rows), metrics.get("notice"), caption)


def _stability_caption(stability: Stability, selected_on: str | None) -> str:
    sentences = [] if stability["refits"] is None else [_refit_text(stability["refits"])]
    for kind, repeats in (("seeds", stability["seeds"]), ("splits", stability["splits"])):
        if repeats is not None:
            sentences.append(f"{kind.capitalize()}: {_REPEAT_NOTES[kind]}.")
    sentences.append("All rows but the first are exploratory.")
    if selected_on:
        sentences.append(f"Every row: {SELECTED}.")
    return " ".join(sentences)


def _refit_text(refits: Refits) -> str:
    changes = refits["changes"]
    return (
        "Refits: stage 2 fitted on resamples of the training patients within their class; the networks stay fixed. "
        "A resample holds about two thirds of the patients, so that refits are slightly worse. A refit changes the "
        f"class of {percentage(changes['mean'])} of the validation scans (5 to 95%: {summary_interval(changes)}); "
        f"{percentage(refits['changes_any'])} change in at least one refit."
    )


def _summary_rows(name: str, summaries: Summaries, classes: list[str]) -> list[tuple[str, ...]]:
    return [
        (f"{name}, mean", *_summary_cells(summaries, classes, lambda summary: percent(summary["mean"]))),
        (f"{name}, sd", *_summary_cells(summaries, classes, lambda summary: percent(summary["sd"]))),
    ]


def _summary_cells(summaries: Summaries, classes: list[str], text: Callable[[Summary], str]) -> tuple[str, ...]:
    metrics = summaries["accuracy"], summaries["balanced_accuracy"], summaries["macro_auc"]
    return tuple(text(summary) for summary in (*metrics, *(summaries["sensitivity"][name] for name in classes)))


def _replicate_cells(replicate: Replicate, classes: list[str]) -> tuple[str, ...]:
    metrics = replicate["accuracy"], replicate["balanced_accuracy"], replicate["macro_auc"]
    return tuple(percent(value) for value in (*metrics, *(replicate["sensitivity"][name] for name in classes)))
