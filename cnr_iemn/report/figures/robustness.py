"""The figure of perturbed scans: how many answers change, and for the better or the worse."""

from textwrap import fill

from matplotlib.figure import Figure

from cnr_iemn.evaluation.robustness.robustness_metrics import Changes, Robustness
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables.results import ensemble_title

_KINDS = {"now wrong": PALETTE[1], "wrong both times": PALETTE[7], "now correct": PALETTE[3]}


def robustness_figure(metrics: StudyMetrics, robustness: Robustness) -> Drawing:
    """Return the share of scans with another answer under each perturbation, by what becomes of it."""
    changes = {name: row["changes"] for name, row in robustness["rows"].items()}
    highest = max(100 * (change["share"]["value"] or 0.0) for change in changes.values())

    def paint(figure: Figure) -> None:
        axes = single(figure)
        for row, change in enumerate(changes.values()):
            left = 0.0
            for n, colour in zip(_parts(change), _KINDS.values(), strict=True):
                width = 100 * n / max(change["n"], 1)
                axes.barh(row, width, left=left, height=0.62, color=colour, linewidth=0)
                left += width
            axes.text(left + 0.02 * max(10.0, highest), row, _numbers(change), va="center", fontsize=9)
        for label, colour in _KINDS.items():
            axes.barh(0, 0, color=colour, label=label)
        axes.set_yticks(range(len(changes)), [fill(name, 18) for name in changes], fontsize=9)
        axes.set(ylim=(len(changes) - 0.5, -0.5), xlim=(0, max(10.0, 1.3 * highest)))
        axes.set_xlabel("scans with another answer, %")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=ink(), alpha=0.15)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=len(_KINDS), fontsize=9, columnspacing=1.0, handlelength=1.2)

    text = "; ".join(
        f"{name}: {', '.join(f'{n} {kind}' for n, kind in zip(_parts(change), _KINDS, strict=True))}, of {change['n']}"
        for name, change in changes.items()
    )
    title = (
        f"Scans with another answer when they are read with one small change, {ensemble_title(metrics)}; "
        f"{robustness['n']} validation scans"
    )
    return draw("robustness", title, f"{text}.", paint, height=0.9 + 0.34 * len(changes))


def _parts(change: Changes) -> tuple[int, int, int]:
    """Return the scans of each kind, in their order."""
    return change["to_wrong"], change["wrong_twice"], change["to_correct"]


def _numbers(change: Changes) -> str:
    return f"{sum(_parts(change))} of {change['n']}" if change["n"] else "all refused"
