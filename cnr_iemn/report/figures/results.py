"""Figures of the result: confusion matrix, and accuracies with their intervals."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import ACCENT, PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables import percent
from cnr_iemn.report.tables.results import accuracy_interval, ensemble_title, model_title, scans_text
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.statistics.metrics import Evaluation


def confusion_figure(metrics: StudyMetrics) -> Drawing:
    """Return Figure 4 of the paper: counts of scans by true and predicted class; shade: share of the true class."""
    classes, matrix = metrics["classes"], np.array(metrics["confusion_matrix"])
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals[:, None], 1)

    def paint(figure: Figure) -> None:
        axes = single(figure)
        for (row, column), count in np.ndenumerate(matrix):
            share, colour = shares[row, column], ACCENT if row == column else PALETTE[1]
            cell = (column - 0.48, row - 0.48)
            axes.add_patch(Rectangle(cell, 0.96, 0.96, facecolor=colour, alpha=0.6 * share, linewidth=0))
            axes.add_patch(Rectangle(cell, 0.96, 0.96, fill=False, edgecolor=ink(), alpha=0.3, linewidth=0.6))
            axes.text(column, row - 0.08, str(count), ha="center", va="center", fontsize=17)
            axes.text(column, row + 0.27, f"{percent(share)}%", ha="center", va="center", fontsize=9)
        axes.set_xticks(range(len(classes)), [fill(name, 14) for name in classes])
        axes.set_yticks(
            range(len(classes)), [f"{fill(name, 14)}\nn = {n}" for name, n in zip(classes, totals, strict=True)]
        )
        axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), xlabel="predicted", ylabel="true")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    rows = (
        f"Of {sum(counts)} {name}: "
        + ", ".join(f"{n} predicted {label}" for n, label in zip(counts, classes, strict=True))
        for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    title = (
        f"Confusion matrix of {ensemble_title(metrics)} (Figure 4 of the paper), percentages of the true class; "
        f"{scans_text(metrics)}"
    )
    return draw("confusion", title, ". ".join(rows) + ".", paint, height=0.7 + 0.92 * len(classes))


def accuracy_figure(metrics: StudyMetrics) -> Drawing:
    """Return the accuracy of ensemble, backbones and baselines with their intervals."""
    entries: dict[str, Evaluation] = {ensemble_title(metrics): metrics} if len(metrics["models"]) > 1 else {}
    entries |= {model_title(name): evaluation for name, evaluation in metrics["backbones"].items()}
    entries |= {f"baseline: {name}": evaluation for name, evaluation in metrics["baselines"].items()}
    estimates = {name: accuracy_interval(evaluation) for name, evaluation in entries.items()}

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _forest(axes, estimates, highlight=ensemble_title(metrics))
        axes.set_xlabel("scans predicted correctly, %")

    title = f"Accuracy of the ensemble, each backbone and each baseline; {scans_text(metrics)}"
    return draw("accuracy", title, _in_words(estimates), paint, height=0.6 + 0.36 * len(entries))


def method_figure(metrics: StudyMetrics) -> Drawing:
    """Return the accuracy of each stage-2 method with its interval."""
    methods = metrics["methods"] or {}
    estimates = {name: method["intervals"]["accuracy"] for name, method in methods.items()}
    primary = next((name for name, method in methods.items() if method["primary"]), None)

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _forest(axes, estimates, highlight=primary)
        axes.set_xlabel("scans predicted correctly, %")

    title = f"Stage-2 methods, the primary one in another colour; {scans_text(metrics)}"
    return draw("methods", title, _in_words(estimates), paint, height=0.6 + 0.36 * len(estimates))


def _forest(axes: Axes, estimates: Mapping[str, Estimate], *, highlight: str | None = None) -> None:
    """Paint a line for each estimate, the first on top. ``highlight``: the one in another colour."""
    for row, (name, estimate) in enumerate(estimates.items()):
        if estimate["value"] is None or estimate["low"] is None or estimate["high"] is None:
            continue
        axes.plot([100 * estimate["low"], 100 * estimate["high"]], [row, row], color=ACCENT, linewidth=1.5)
        axes.plot(
            100 * estimate["value"], row, marker="o", clip_on=False, color=PALETTE[1] if name == highlight else ACCENT
        )
    axes.set_yticks(range(len(estimates)), [fill(name, 24) for name in estimates], fontsize=9)
    axes.set(ylim=(len(estimates) - 0.5, -0.5), xlim=(0, 101))
    axes.grid(axis="x", color=ink(), alpha=0.15)


def _in_words(estimates: Mapping[str, Estimate]) -> str:
    texts = (
        f"{name}: {percent(estimate['value'])}% [{percent(estimate['low'])}, {percent(estimate['high'])}]"
        if estimate["value"] is not None
        else f"{name}: no scans"
        for name, estimate in estimates.items()
    )
    return "; ".join(texts) + "."
