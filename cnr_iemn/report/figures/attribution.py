"""The figure of the contributions to stage 2 over the height of the scan; of XGBoost, SHAP values."""

import numpy as np
from matplotlib.figure import Figure

from cnr_iemn.constants import BOOSTER_METHOD, N_GROUPS
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.svg import SERIES, Drawing, draw, ink
from cnr_iemn.report.tables.results import ensemble_title, model_title, scans_text

_PANEL_INCHES = 2.6
_TICKS = (0, N_GROUPS // 4, N_GROUPS // 2, 3 * N_GROUPS // 4, N_GROUPS)


def contribution_figure(metrics: StudyMetrics) -> Drawing:
    """Return mean absolute contributions: a panel for each class, groups of slices from top to base, by backbone."""
    assert metrics["contributions"] is not None
    sizes = {name: np.array(list(rows.values())) for name, rows in metrics["contributions"].items()}
    noun, measure = (
        ("SHAP value", "|SHAP|") if metrics["method"] == BOOSTER_METHOD else ("contribution", "|contribution|")
    )
    models = [model_title(name) for name in metrics["models"]]
    highest = max(float(size.sum(axis=0).max()) for size in sizes.values()) or 1.0

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, values) in zip(panels, sizes.items(), strict=True):
            left = np.zeros(N_GROUPS)
            for k, (model, bars) in enumerate(zip(models, values, strict=True)):
                colour = SERIES[k % len(SERIES)]
                axes.barh(np.arange(N_GROUPS) + 0.5, bars, 0.86, left=left, color=colour, label=model)
                left += bars
            axes.set_title(name, fontsize=10, loc="left")
            axes.set(xlim=(0, 1.05 * highest), ylim=(N_GROUPS, 0))
            axes.set_yticks(_TICKS, [f"{100 * tick // N_GROUPS}%" for tick in _TICKS])
            axes.grid(axis="x", color=ink(), alpha=0.15)
        panels[0].set_ylabel("height of the scan, 0% = top")
        figure.supxlabel(f"mean {measure}, log-odds", fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(models), 4), fontsize=9)

    def strongest(name: str) -> str:
        model, group = np.unravel_index(sizes[name].argmax(), sizes[name].shape)
        return f"Largest for {name}: {models[model]} in group {group + 1} of {N_GROUPS}, {sizes[name].max():.2f}."

    text = f"Mean absolute {noun}, log-odds. " + " ".join(strongest(name) for name in sizes)
    title = (
        f"Feature attribution of {ensemble_title(metrics)}: mean absolute {noun} of each backbone's slices in "
        f"20 groups, by class; {scans_text(metrics)}"
    )
    return draw("contributions", title, text, paint, width=0.9 + _PANEL_INCHES * len(sizes), height=4.2)
