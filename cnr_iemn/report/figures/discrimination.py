"""ROC and precision-recall curves of each class against the others, with their operating points."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import PALETTE, Drawing, draw, ink, single
from cnr_iemn.report.tables.results import ensemble_title, scans_text
from cnr_iemn.statistics.curve_bands import Band
from cnr_iemn.statistics.curves import ClassCurves

_STYLES = ("-", "--", "-.", ":")
_HEIGHT = 4.1


def roc_figure(metrics: StudyMetrics, curves: Sequence[ClassCurves]) -> Drawing:
    """Return the ROC curve of each class against the others; the dot is the most probable class as the prediction."""

    def lines(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle=":")
        for curve, colour, dash in _styles(metrics, curves):
            _fill(axes, curve.roc_band, colour)
            label = f"{curve.label}, AUC {curve.auc:.3f}"
            rates = curve.false_positive_rate, curve.true_positive_rate
            axes.plot(*rates, label=label, linewidth=2, color=colour, linestyle=dash)
            _dot(axes, 1 - _value(curve.rates.specificity["value"]), _value(curve.rates.sensitivity["value"]), colour)
        point = metrics["operating_point"]
        if point is not None:
            specificity, sensitivity = point["specificity"]["value"], point["sensitivity"]["value"]
            if specificity is not None and sensitivity is not None:
                label = f"{point['label']} at its threshold"
                axes.plot(1 - specificity, sensitivity, "D", markersize=7, color=ink(), clip_on=False, label=label)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity")

    text = "; ".join(
        f"{curve.label}: AUC {curve.auc:.3f}, operating point at sensitivity "
        f"{_value(curve.rates.sensitivity['value']):.2f} and specificity {_value(curve.rates.specificity['value']):.2f}"
        for curve in curves
    )
    title = (
        f"ROC curves of {ensemble_title(metrics)}, each class against the others; dot: the most probable class is the "
        f"prediction{_band_note(curves)}; {scans_text(metrics)}"
    )
    return draw("roc", title, f"ROC curves. {text}.", _square(lines), height=_HEIGHT)


def precision_recall_figure(metrics: StudyMetrics, curves: Sequence[ClassCurves]) -> Drawing:
    """Return the precision-recall curve of each class against the others; the thin line is the precision of chance."""

    def lines(axes: Axes) -> None:
        for curve, colour, dash in _styles(metrics, curves):
            _fill(axes, curve.precision_recall_band, colour)
            axes.axhline(curve.prevalence, color=colour, linewidth=0.8, linestyle=":")
            label = f"{curve.label}, AP {curve.average_precision:.3f}"
            rates = curve.recall, curve.precision
            axes.plot(*rates, label=label, linewidth=2, drawstyle="steps-pre", color=colour, linestyle=dash)
            if curve.rates.ppv["value"] is not None:
                _dot(axes, _value(curve.rates.sensitivity["value"]), curve.rates.ppv["value"], colour)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")

    text = "; ".join(
        f"{curve.label}: average precision {curve.average_precision:.3f}, by chance {curve.prevalence:.2f}"
        for curve in curves
    )
    title = (
        f"Precision-recall curves of {ensemble_title(metrics)}, each class against the others; thin lines: chance, the "
        f"share of the class{_band_note(curves)}; {scans_text(metrics)}"
    )
    return draw("precision-recall", title, f"Precision-recall curves. {text}.", _square(lines), height=_HEIGHT)


def _styles(metrics: StudyMetrics, curves: Sequence[ClassCurves]) -> list[tuple[ClassCurves, str, str]]:
    """Return each curve with the colour of its class and a dash of its own: colour alone tells no class."""
    places = [metrics["classes"].index(curve.label) for curve in curves]
    return [
        (curve, PALETTE[k % len(PALETTE)], _STYLES[k % len(_STYLES)]) for k, curve in zip(places, curves, strict=True)
    ]


def _band_note(curves: Sequence[ClassCurves]) -> str:
    return "; bands: pointwise 95% intervals" if any(curve.roc_band is not None for curve in curves) else ""


def _fill(axes: Axes, band: Band | None, colour: str) -> None:
    if band is not None:
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.15, linewidth=0)


def _dot(axes: Axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, "o", markersize=9, color=colour, markeredgecolor=ink(), clip_on=False)


def _value(estimate: float | None) -> float:
    """Return a rate that is defined, as those of a class with scans within and without are."""
    assert estimate is not None
    return estimate


def _square(lines: Callable[[Axes], None]) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        axes = single(figure)
        lines(axes)
        axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
        axes.grid(color=ink(), alpha=0.12)
        axes.legend(loc="lower right" if "specificity" in axes.get_xlabel() else "lower left", fontsize=9)

    return paint
