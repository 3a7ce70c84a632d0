"""Figures of the probabilities: the reliability diagram and the risk-coverage curve."""

import numpy as np
from matplotlib.figure import Figure

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import ACCENT, PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables import percent
from cnr_iemn.report.tables.results import scans_text


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
        panels = figure.subplots(2, len(bins), sharex=True, sharey="row", height_ratios=(4, 1))
        for axes, counts, (name, rows) in zip(panels[0], panels[1], bins.items(), strict=True):
            x, y = [row["mean_probability"] for row in rows], [row["share_right"] for row in rows]
            axes.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle=":")
            axes.plot(x, y, marker="o", color=ACCENT, clip_on=False)
            axes.set_title(name, fontsize=10, loc="left")
            axes.set(xlim=(0, 1), ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
            axes.grid(color=ink(), alpha=0.12)
            counts.bar(x, [row["n"] for row in rows], width=0.05, color=ACCENT, clip_on=False)
            counts.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
        panels[0, 0].set_ylabel("share correct")
        panels[1, 0].set_ylabel("scans")
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
    title = f"Reliability diagram; dotted: perfect calibration; below: scans of each bin; {scans_text(metrics)}"
    return draw("reliability", title, text, paint, height=3.6)


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
            axes.plot(
                100 * decided,
                100 * (1 - accuracy),
                marker="o",
                color=PALETTE[1],
                linestyle="none",
                clip_on=False,
                label="threshold",
            )
            axes.legend(loc="upper left", fontsize=9)
        axes.set(xlim=(0, 103), ylim=(0, None), xlabel="scans decided, most confident first, %", ylabel="error, %")
        axes.grid(color=ink(), alpha=0.12)

    error = "none is decided" if accuracy is None else f"{percent(1 - accuracy)}% of the decided are wrong"
    text = (
        f"With all scans decided {percent(errors[-1])}% are wrong. At the threshold set on training scans, the point, "
        f"{percent(decided)}% are decided and {error}."
    )
    title = f"Risk-coverage curve; dot: the threshold for abstention, set on training scans; {scans_text(metrics)}"
    return draw("risk", title, text, paint, height=3.6)
