"""The figures of a study, from metrics.json alone."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnr_iemn.patients.evidence.cells import percent
from cnr_iemn.patients.evidence.tables import ensemble_title, model_title
from cnr_iemn.patients.intervals import Estimate, proportion_intervals
from cnr_iemn.registry import N_GROUPS
from cnr_iemn.report.drawing import ACCENT, PALETTE, Drawing, draw, ink, single


def study_figures(metrics: Mapping[str, Any]) -> dict[str, Drawing]:
    """Return the figures of all that was measured, by name."""
    drawings = [confusion_figure(metrics), accuracy_figure(metrics), contribution_figure(metrics)]
    if metrics["calibration"] is not None:
        drawings += [reliability_figure(metrics), risk_figure(metrics)]
    if metrics["methods"] is not None:
        drawings.append(method_figure(metrics))
    return {drawing.name: drawing for drawing in drawings}


def confusion_figure(metrics: Mapping[str, Any]) -> Drawing:
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
        axes.set_xlabel("answered")
        axes.set_ylabel("true")

    rows = (
        f"Of {sum(counts)} {name}: "
        + ", ".join(f"{n} answered {each}" for n, each in zip(counts, classes, strict=True))
        for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    title = f"Figure 4. {ensemble_title(metrics)}, scans"
    return draw("confusion", title, ". ".join(rows) + ".", paint, height=0.8 + 0.85 * len(classes))


def accuracy_figure(metrics: Mapping[str, Any]) -> Drawing:
    """Return the accuracy of ensemble, backbones and baselines with their intervals."""
    entries = {
        **({ensemble_title(metrics): metrics} if len(metrics["models"]) > 1 else {}),
        **{model_title(name): each for name, each in metrics["backbones"].items()},
        **{f"baseline: {name}": each for name, each in metrics["baselines"].items()},
    }
    estimates = {name: _accuracy(each) for name, each in entries.items()}

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _forest(axes, estimates, ours=ensemble_title(metrics))
        axes.set_xlabel("scans answered rightly, %")

    title = "Accuracy of the ensemble, each backbone and each baseline"
    return draw("accuracy", title, _in_words(estimates), paint, height=0.6 + 0.36 * len(entries))


def method_figure(metrics: Mapping[str, Any]) -> Drawing:
    """Return the accuracy of each way from slices to patients with its interval."""
    estimates = {name: each["intervals"]["accuracy"] for name, each in metrics["methods"].items()}
    declared = next((name for name, each in metrics["methods"].items() if each["confirmatory"]), None)

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _forest(axes, estimates, ours=declared)
        axes.set_xlabel("scans answered rightly, %")

    title = "Ways from slices to patients; in another colour the declared one"
    return draw("methods", title, _in_words(estimates), paint, height=0.6 + 0.36 * len(estimates))


def reliability_figure(metrics: Mapping[str, Any]) -> Drawing:
    """Return how often the named class was right at each probability, before and after the temperature."""
    found = metrics["calibration"]
    states = {"as given": found["before"], f"at temperature {found['temperature']:.2f}": found["after"]}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(states), sharey=True)
        for axes, (name, state) in zip(panels, states.items(), strict=True):
            bins = [each for each in state["reliability"] if each["n"]]
            x, y = ([each[key] for each in bins] for key in ("mean_probability", "share_right"))
            axes.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle=":")
            axes.plot(x, y, marker="o", color=ACCENT)
            for each, right, share in zip(bins, x, y, strict=True):
                axes.annotate(
                    f"{each['n']}", (right, share), (0, 6), textcoords="offset points", ha="center", fontsize=8
                )
            axes.set_title(name, fontsize=10)
            axes.set(xlim=(0, 1.08), ylim=(-0.04, 1.14), xticks=(0, 0.5, 1))
        panels[0].set_ylabel("share right")
        figure.supxlabel("probability of the named class", fontsize=10)

    text = " ".join(
        f"Probabilities {name}: "
        + "; ".join(
            f"{each['n']} scans near {each['mean_probability']:.2f}, {each['share_right']:.2f} of them right"
            for each in state["reliability"]
            if each["n"]
        )
        + "."
        for name, state in states.items()
    )
    return draw("reliability", "Reliability, with the number of scans", text, paint, height=2.7)


def risk_figure(metrics: Mapping[str, Any]) -> Drawing:
    """Return the error among the answered against the share answered, and where the frozen threshold lies."""
    found = metrics["calibration"]["undecided"]
    shares, errors = np.array(found["risk"]).T
    answered, right = found["share_answered"], found["accuracy_among_answered"]

    def paint(figure: Figure) -> None:
        axes = single(figure)
        axes.plot(100 * shares, 100 * errors, color=ACCENT, drawstyle="steps-post")
        if right is not None:
            axes.plot(100 * answered, 100 * (1 - right), marker="o", color=PALETTE[1], linestyle="none")
        axes.set(xlim=(0, 103), ylim=(0, None), xlabel="scans answered, surest first, %", ylabel="wrong among them, %")

    at = "nobody is answered" if right is None else f"{percent(1 - right)}% of the answered are wrong"
    text = (
        f"With all scans answered {percent(errors[-1])}% are wrong. At the threshold frozen on training scans, the "
        f"point, {percent(answered)}% are answered and {at}."
    )
    return draw("risk", "What leaving the unsure undecided would save", text, paint, height=2.9)


def contribution_figure(metrics: Mapping[str, Any]) -> Drawing:
    """Return what the booster goes by: a panel for each class, a row for each backbone, groups of slices head first."""
    found = {name: np.array(list(each.values())) for name, each in metrics["contributions"].items()}
    models = [model_title(name) for name in metrics["models"]]
    highest = max(float(each.max()) for each in found.values()) or 1.0

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, found.items(), strict=True):
            _cells(axes, values / highest)
            axes.set_yticks(range(len(models)), models)
            axes.set_title(f"towards or away from {name}", fontsize=10, loc="left")
        panels[-1].set_xticks([0, N_GROUPS - 1], ["top", "base"])
        panels[-1].set_xlabel("groups of slices over the height of the scan")

    def strongest(name: str) -> str:
        model, group = np.unravel_index(found[name].argmax(), found[name].shape)
        return f"For {name} most by {models[model]} in group {group + 1} of {N_GROUPS}, {found[name].max():.2f}."

    text = "Mean size of the contribution, log-odds. " + " ".join(strongest(name) for name in found)
    height = 0.8 + len(found) * (0.4 + 0.24 * len(models))
    return draw("contributions", "Model sensitivity: what the booster goes by", text, paint, height=height)


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


def _accuracy(scores: Mapping[str, Any]) -> Estimate:
    return proportion_intervals(scores["confusion_matrix"], list(scores["sensitivity"]))["accuracy"]


def _forest(axes: Axes, estimates: Mapping[str, Estimate], *, ours: str | None = None) -> None:
    """Paint a line for each estimate, the first on top. ``ours``: which of them is the study's own."""
    for row, (name, estimate) in enumerate(estimates.items()):
        if estimate["value"] is None or estimate["low"] is None or estimate["high"] is None:
            continue
        axes.plot([100 * estimate["low"], 100 * estimate["high"]], [row, row], color=ACCENT, linewidth=1.5)
        axes.plot(100 * estimate["value"], row, marker="o", color=PALETTE[1] if name == ours else ACCENT)
    axes.set_yticks(range(len(estimates)), [fill(name, 24) for name in estimates], fontsize=9)
    axes.set(ylim=(len(estimates) - 0.5, -0.5), xlim=(0, 101))
    axes.grid(axis="x", color=ink(), alpha=0.15)


def _in_words(estimates: Mapping[str, Estimate]) -> str:
    parts = (
        f"{name}: {percent(each['value'])}% [{percent(each['low'])}, {percent(each['high'])}]"
        for name, each in estimates.items()
    )
    return "; ".join(parts) + "."
