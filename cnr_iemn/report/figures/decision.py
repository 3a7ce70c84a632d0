"""The decision curve of the class that has a threshold."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables.results import ensemble_title, scans_text

_HEIGHT = 3.4


def decision_figure(metrics: StudyMetrics, use: ClinicalUse) -> Drawing:
    """Return the net benefit of acting on the class's probability, of acting on all scans and on none."""
    label, curve = use["label"], use["decision_curve"]
    colour = PALETTE[metrics["classes"].index(label) % len(PALETTE)]

    def paint(figure: Figure) -> None:
        axes = single(figure)
        _lines(axes)
        axes.set(xlabel=f"threshold probability of {label}", ylabel="net benefit, per scan", xlim=(0, 1))
        axes.set_ylim(-0.15 * curve["prevalence"], 1.1 * curve["prevalence"])
        axes.grid(color=ink(), alpha=0.12)
        axes.legend(loc="upper right", fontsize=9)

    def _lines(axes: Axes) -> None:
        thresholds = curve["thresholds"]
        axes.fill_between(thresholds, curve["low"], curve["high"], color=colour, alpha=0.25, linewidth=0)
        axes.plot(thresholds, curve["net_benefit"], color=colour, linewidth=2, label=f"act on P({label})")
        axes.plot(thresholds, curve["act_on_all"], color=ink(), linewidth=1, linestyle="--", label="act on all")
        axes.axhline(0, color=ink(), linewidth=1, linestyle=":", label="act on none")

    scale = "calibrated probabilities" if use["calibrated"] else "probabilities of stage 2, not calibrated"
    title = (
        f"Decision curve for {label}, {ensemble_title(metrics)}, {scale}; band: pointwise 95% interval; "
        f"{scans_text(metrics)}"
    )
    best = np.maximum(0, curve["act_on_all"])
    useful = np.array(curve["thresholds"])[np.array(curve["net_benefit"]) > best]
    where = f"from {useful.min():.2f} to {useful.max():.2f}, not at each between" if len(useful) else "nowhere"
    text = f"Net benefit of acting on the probability of {label} by threshold: above both simple rules {where}."
    return draw("decision", title, text, paint, height=_HEIGHT)
