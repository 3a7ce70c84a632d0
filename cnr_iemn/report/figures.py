"""The figures of a study, drawn from its metrics."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import ACCENT, PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables import percent
from cnr_iemn.report.tables.results import accuracy_interval, ensemble_title, model_title
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.statistics.metrics import Evaluation


def study_figures(metrics: StudyMetrics) -> dict[str, Drawing]:
    """Return the figures of everything that was measured, by name."""
    drawings = [confusion_figure(metrics), accuracy_figure(metrics)]
    if metrics["contributions"] is not None:
        drawings.append(contribution_figure(metrics))
    if metrics["calibration"] is not None:
        drawings += [reliability_figure(metrics), risk_figure(metrics)]
    if metrics["methods"] is not None:
        drawings.append(method_figure(metrics))
    return {drawing.name: drawing for drawing in drawings}


def confusion_figure(metrics: StudyMetrics) -> Drawing:
    """Return Figure 4 of the paper: counts of scans by true and predicted class; shade: share of the true class."""
    classes, matrix = metrics["classes"], np.array(metrics["confusion_matrix"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _cells(axes, shares)
        for (row, column), count in np.ndenumerate(matrix):
            axes.text(column, row, f"{count}\n{percent(shares[row, column])}%", ha="center", va="center")
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")

    rows = (
        f"Of {sum(counts)} {name}: "
        + ", ".join(f"{n} predicted {label}" for n, label in zip(counts, classes, strict=True))
        for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    title = f"Figure 4. {ensemble_title(metrics)}, scans"
    return draw("confusion", title, ". ".join(rows) + ".", paint, height=0.8 + 0.85 * len(classes))


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

    title = "Accuracy of the ensemble, each backbone and each baseline"
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

    title = "Stage-2 methods; the primary one in another colour"
    return draw("methods", title, _in_words(estimates), paint, height=0.6 + 0.36 * len(estimates))


def reliability_figure(metrics: StudyMetrics) -> Drawing:
    """Return the accuracy at each probability of the predicted class, before and after temperature scaling."""
    calibration = metrics["calibration"]
    assert calibration is not None
    temperature = f"at temperature {calibration['temperature']:.2f}"
    bins = {
        name: [row for row in state["reliability"] if row["mean_probability"] is not None]
        for name, state in (("uncalibrated", calibration["before"]), (temperature, calibration["after"]))
    }

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(bins), sharey=True)
        for axes, (name, rows) in zip(panels, bins.items(), strict=True):
            x, y = [row["mean_probability"] for row in rows], [row["share_right"] for row in rows]
            axes.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle=":")
            axes.plot(x, y, marker="o", color=ACCENT)
            for row, right, share in zip(rows, x, y, strict=True):
                axes.annotate(
                    str(row["n"]), (right, share), (0, 6), textcoords="offset points", ha="center", fontsize=8
                )
            axes.set_title(name, fontsize=10)
            axes.set(xlim=(0, 1.08), ylim=(-0.04, 1.14), xticks=(0, 0.5, 1))
        panels[0].set_ylabel("accuracy")
        figure.supxlabel("probability of the predicted class", fontsize=10)

    text = " ".join(
        f"Probabilities {name}: "
        + "; ".join(
            f"{row['n']} scans near {row['mean_probability']:.2f}, {row['share_right']:.2f} of them correct"
            for row in rows
        )
        + "."
        for name, rows in bins.items()
    )
    return draw("reliability", "Reliability diagram, with the number of scans", text, paint, height=2.7)


def risk_figure(metrics: StudyMetrics) -> Drawing:
    """Return the error of the decided scans against their share, and the threshold set on training scans."""
    calibration = metrics["calibration"]
    assert calibration is not None
    undecided = calibration["undecided"]
    shares, errors = np.array(undecided["risk"]).T
    decided, accuracy = undecided["share_answered"], undecided["accuracy_among_answered"]

    def paint(figure: Figure) -> None:
        axes = single(figure)
        axes.plot(100 * shares, 100 * errors, color=ACCENT, drawstyle="steps-post")
        if accuracy is not None:
            axes.plot(100 * decided, 100 * (1 - accuracy), marker="o", color=PALETTE[1], linestyle="none")
        axes.set(xlim=(0, 103), ylim=(0, None), xlabel="scans decided, most confident first, %", ylabel="error, %")

    error = "none is decided" if accuracy is None else f"{percent(1 - accuracy)}% of the decided are wrong"
    text = (
        f"With all scans decided {percent(errors[-1])}% are wrong. At the threshold set on training scans, the point, "
        f"{percent(decided)}% are decided and {error}."
    )
    title = "Risk-coverage curve; the point is the threshold set on training scans"
    return draw("risk", title, text, paint, height=2.9)


def contribution_figure(metrics: StudyMetrics) -> Drawing:
    """Return mean absolute contributions: a panel for each class, a row for each backbone, groups head first."""
    assert metrics["contributions"] is not None
    sizes = {name: np.array(list(rows.values())) for name, rows in metrics["contributions"].items()}
    models = [model_title(name) for name in metrics["models"]]
    highest = max(float(size.max()) for size in sizes.values()) or 1.0

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, sizes.items(), strict=True):
            _cells(axes, values / highest)
            axes.set_yticks(range(len(models)), models)
            axes.set_title(f"{name}", fontsize=10, loc="left")
        panels[-1].set_xticks([0, N_GROUPS - 1], ["top", "base"])
        panels[-1].set_xlabel("groups of slices over the height of the scan")

    def strongest(name: str) -> str:
        model, group = np.unravel_index(sizes[name].argmax(), sizes[name].shape)
        return f"Largest for {name}: {models[model]} in group {group + 1} of {N_GROUPS}, {sizes[name].max():.2f}."

    text = "Mean absolute contribution, log-odds. " + " ".join(strongest(name) for name in sizes)
    height = 0.8 + len(sizes) * (0.4 + 0.24 * len(models))
    title = "Feature importance: mean absolute contributions to stage 2"
    return draw("contributions", title, text, paint, height=height)


def _cells(axes: Axes, shares: "np.ndarray[Any, np.dtype[np.float64]]") -> None:
    """Paint a matrix as cells of one colour, from clear (0) to full (1)."""
    rows, columns = shares.shape
    for (row, column), share in np.ndenumerate(shares):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=ACCENT, alpha=0.85 * share, linewidth=0))
    axes.add_patch(Rectangle((-0.5, -0.5), columns, rows, fill=False, edgecolor=ink(), linewidth=0.5))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


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
