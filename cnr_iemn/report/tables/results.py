"""The paper's Tables 1 and 2 and Figure 4 for a study, and the paper's own results.

The paper's results are shown with those of the real COVID-CT-MD only.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cnr_iemn.constants import (
    BACKBONES,
    BOOSTER_METHOD,
    PAPER_BACKBONES,
    PAPER_COHORT,
    PAPER_COUNTS,
    PAPER_ENSEMBLE_ACCURACY,
    PAPER_SENSITIVITY,
)
from cnr_iemn.evaluation.external_metrics import ExternalMetrics
from cnr_iemn.evaluation.paper_reference import (
    PaperComparison,
    PaperResult,
    paper_comparisons,
    paper_results,
    validation_against_tests,
)
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import (
    INTERVAL,
    NONE,
    SELECTED,
    Cells,
    ResultTable,
    by_class,
    interval_text,
    make_table,
    percent,
    with_interval,
)
from cnr_iemn.stage2.out_of_fold import OUT_OF_FOLD, PAPER
from cnr_iemn.statistics.confidence_intervals import Estimate, proportion_intervals
from cnr_iemn.statistics.metrics import NO_SLICES, Scores

_BRIEF_BASELINES = 2


@dataclass(frozen=True)
class _Row:
    """A model or a baseline. ``interval``: of the accuracy. ``paper``: its accuracy in the paper, percent."""

    scores: Scores
    interval: Estimate | None
    paper: str = NONE
    note: str = ""


def result_tables(metrics: StudyMetrics) -> tuple[ResultTable, ResultTable, ResultTable]:
    """Return Table 1, Table 2 and Figure 4 of the paper for a study."""
    return slice_table(metrics), scan_table(metrics), confusion_table(metrics)


def slice_table(metrics: StudyMetrics) -> ResultTable:
    """Return Table 1: the validation slices, by backbone and slice baseline, in percent."""
    rows = {
        model_title(model): _Row(
            scores, scores["accuracy_interval"], _paper(model, "paper_slice_accuracy"), _note(metrics, model)
        )
        for model, scores in metrics["slices"].items()
    }
    rows |= {f"baseline: {name}": _Row(scores, None) for name, scores in metrics["slice_baselines"].items()}
    n = next(iter(metrics["slices"].values()))["n_slices"]
    return make_table(
        f"Table 1. Slices, %. {metrics['cohort']}, {f'{n} validation slices' if n else NO_SLICES}",
        "model",
        rows.items(),
        _score_cells(metrics, "SPGC validation"),
        notice=metrics.get("notice"),
        caption=f"{INTERVAL}: patients resampled with all their slices; the networks stay fixed.",
    )


def scan_table(metrics: StudyMetrics, *, brief: bool = False) -> ResultTable:
    """Return Table 2: the validation scans, by backbone, ensemble and baseline, in percent.

    Args:
        metrics: metrics.json.
        brief: Only the two best baselines, and no notice or column of notes.
    """
    rows = {
        f"{model_title(model)} alone": _Row(
            scores, accuracy_interval(scores), paper_accuracy(metrics, model), _scan_note(metrics, model)
        )
        for model, scores in metrics["backbones"].items()
    }
    if len(metrics["models"]) > 1:
        note = _scan_note(metrics, *metrics["models"])
        rows[ensemble_title(metrics)] = _Row(metrics, accuracy_interval(metrics), paper_accuracy(metrics), note)
    baselines = metrics["baselines"]
    if brief:
        best = sorted(baselines, key=lambda name: baselines[name]["accuracy"] or 0.0, reverse=True)[:_BRIEF_BASELINES]
        baselines = {name: baselines[name] for name in best}
    for name, scores in baselines.items():
        rows[f"baseline: {name}"] = _Row(scores, accuracy_interval(scores))
    mode = "" if metrics["features"] == PAPER else f", features {metrics['features'].replace('_', ' ')}"
    cells = _score_cells(metrics, "SPGC validation, 98 scans")
    caption = f"Alone: {metrics['method']}, of one backbone. {INTERVAL}: Wilson's."
    if brief:
        caption = f"Checkpoints were {SELECTED}." if _scan_note(metrics, *metrics["models"]) else ""
        del cells["note"]
    return make_table(
        f"Table 2. Scans, %{mode}. {metrics['cohort']}, {metrics['n_patients']} validation scans",
        "model",
        rows.items(),
        cells,
        notice=None if brief else metrics.get("notice"),
        caption=caption or None,
    )


def confusion_table(metrics: StudyMetrics, *, brief: bool = False) -> ResultTable:
    """Return Figure 4: a row for each true class, counts by predicted class and the sensitivity in percent.

    Args:
        metrics: metrics.json.
        brief: No notice or caption.
    """
    classes, intervals = metrics["classes"], metrics["intervals"]["wilson"]["sensitivity"]
    counts = dict(zip(classes, metrics["confusion_matrix"], strict=True))
    cells: dict[str, Callable[[str], str]] = {
        **by_class(classes, "predicted {}", lambda true, name: str(counts[true][classes.index(name)])),
        "sensitivity, %": lambda true: percent(metrics["sensitivity"][true]),
        INTERVAL: lambda true: interval_text(intervals[true]),
    }
    if has_paper_reference(metrics):
        column = "paper: SPGC validation, 98 scans: sensitivity, %"
        cells[column] = lambda true: f"{PAPER_SENSITIVITY[true]:.2f}" if is_paper_ensemble(metrics) else NONE
    return make_table(
        f"Figure 4. {ensemble_title(metrics)}, {metrics['cohort']}, {metrics['n_patients']} validation scans",
        "true class",
        ((name, name) for name in classes),
        cells,
        notice=None if brief else metrics.get("notice"),
        caption=None if brief else _scan_note(metrics, *metrics["models"]) or None,
    )


def _score_cells(metrics: StudyMetrics, paper: str) -> dict[str, Callable[[_Row], str]]:
    cells: dict[str, Callable[[_Row], str]] = {
        f"accuracy, {INTERVAL}": lambda row: (
            percent(row.scores["accuracy"]) if row.interval is None else with_interval(row.interval)
        ),
        "balanced accuracy": lambda row: percent(row.scores["balanced_accuracy"]),
        **by_class(metrics["classes"], "recall {}", lambda row, name: percent(row.scores["sensitivity"][name])),
    }
    if has_paper_reference(metrics):
        cells[f"paper: {paper}: accuracy"] = lambda row: row.paper
    return {**cells, "note": lambda row: row.note}


def accuracy_interval(scores: Scores) -> Estimate:
    """Return the accuracy with Wilson's interval."""
    return proportion_intervals(scores["confusion_matrix"], list(scores["sensitivity"]))["accuracy"]


def has_paper_reference(metrics: StudyMetrics) -> bool:
    """Return whether the paper's results may be shown: both are of the real scans of COVID-CT-MD."""
    return metrics["cohort"] == PAPER_COHORT and "notice" not in metrics


def is_paper_ensemble(metrics: StudyMetrics | ExternalMetrics) -> bool:
    """Return whether this is the paper's method on its four backbones, in its order."""
    return metrics["models"] == list(PAPER_BACKBONES) and metrics["method"] == BOOSTER_METHOD


def ensemble_title(metrics: StudyMetrics | ExternalMetrics) -> str:
    """Return the name of the ensemble in tables, with the stage-2 method unless it is the paper's."""
    if is_paper_ensemble(metrics):
        return "CNR-IEMN"
    models, method = " + ".join(model_title(model) for model in metrics["models"]), metrics["method"]
    return models if method == BOOSTER_METHOD else f"{models}, {method}"


def model_title(model: str) -> str:
    """Return the paper's name of a model, or its own."""
    return BACKBONES[model].paper_name if model in BACKBONES else model


def paper_accuracy(metrics: StudyMetrics, model: str | None = None) -> str:
    """Return the paper's accuracy of scans in percent, of a backbone alone or of the ensemble; a dash for others."""
    if model is not None:
        return _paper(model, "paper_scan_accuracy")
    return f"{PAPER_ENSEMBLE_ACCURACY:.2f}" if is_paper_ensemble(metrics) else NONE


def scans_text(metrics: StudyMetrics) -> str:
    """Return the scans that a figure is of, for its caption."""
    return f"{metrics['n_patients']} validation scans, cohort {metrics['cohort']}"


def _paper(model: str, attribute: str) -> str:
    return f"{getattr(BACKBONES[model], attribute):.2f}" if model in PAPER_BACKBONES else NONE


def _note(metrics: StudyMetrics, *models: str) -> str:
    """Mark metrics of networks whose checkpoint was chosen on the very slices that are measured."""
    return SELECTED if any(metrics["checkpoints"][model] == "best" for model in models) else ""


def _scan_note(metrics: StudyMetrics, *models: str) -> str:
    """Mark metrics of scans likewise; out of fold no checkpoint is chosen."""
    return "" if metrics["features"] == OUT_OF_FOLD else _note(metrics, *models)


def paper_result_table() -> ResultTable:
    """Return the paper's counts with their intervals and the smallest difference that they could show, in percent."""

    def smallest(result: PaperResult) -> str:
        scans = result["smallest"]
        return "none" if scans is None else f"{scans} scans, {100 * scans / result['n']:.1f} points"

    cells: Cells[PaperResult] = {
        "correct": lambda result: f"{result['correct']} of {result['n']}",
        "%": lambda result: percent(result["interval"]["value"]),
        INTERVAL: lambda result: interval_text(result["interval"]),
        "smallest detectable difference": smallest,
    }
    p_all, p_cap = validation_against_tests().values()
    caption = (
        "Wilson's intervals. Smallest detectable difference: between two methods on the same scans, exact McNemar "
        "p <= 5%, at best, where the worse method is correct in no scan that the better one has wrong. Validation "
        f"against tests, of other patients: Fisher's exact p = {p_all:.2f}, for CAP {p_cap:.2f}."
    )
    return make_table("The paper's results", "scans of the paper", paper_results().items(), cells, caption=caption)


def paper_comparison_table() -> ResultTable:
    """Return the paper's ensemble against each of its backbones."""

    def reversals(comparison: PaperComparison) -> str:
        return "none will do" if comparison["reversals"] is None else str(comparison["reversals"])

    cells: Cells[PaperComparison] = {
        "lead, scans": lambda comparison: f"{comparison['ahead']:+d}",
        "smallest possible p": lambda comparison: f"{comparison['best_p']:.2g}",
        "p, Holm": lambda comparison: f"{comparison['best_p_holm']:.2g}",
        "scans that the backbone alone may have correct for p <= 5%": reversals,
    }
    _, n = PAPER_COUNTS["validation"]
    caption = (
        f"Exact McNemar on the {n} validation scans, from counts alone: which scans each predicts correctly is not "
        "published. The smallest p assumes that the ensemble is correct wherever the backbone is."
    )
    title = "The paper's ensemble against its backbones"
    return make_table(title, "backbone", paper_comparisons().items(), cells, caption=caption)
