"""The figure of the networks' training: loss and balanced accuracy of slices by epoch."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnr_iemn.report.svg import SERIES, Drawing, draw, ink
from cnr_iemn.report.tables.results import model_title
from cnr_iemn.report.training_curves import Floats, TrainingCurve


def training_figure(training: Mapping[str, TrainingCurve]) -> Drawing:
    """Return loss and balanced accuracy by epoch. ``training``: by model."""
    panels: dict[str, dict[str, tuple[Floats, Floats]]] = {
        "loss": {model: (curve.training_loss, curve.validation_loss) for model, curve in training.items()},
        "balanced accuracy of slices": {
            model: (curve.training_accuracy, curve.validation_accuracy) for model, curve in training.items()
        },
    }

    def paint(figure: Figure) -> None:
        for axes, (name, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for k, (model, (training_curve, validation_curve)) in enumerate(curves.items()):
                colour, epochs = SERIES[k % len(SERIES)], np.arange(1, len(training_curve) + 1)
                marker = "o" if len(training_curve) < 3 else None
                axes.plot(
                    epochs, training_curve, color=colour, linestyle="--", linewidth=1.3, marker=marker, fillstyle="none"
                )
                axes.plot(epochs, validation_curve, color=colour, linewidth=2, marker=marker, label=model_title(model))
            axes.set_title(name, fontsize=10, loc="left")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(color=ink(), alpha=0.12)
            axes.set_xlim(0.5, max(map(len, training.values())) + 0.5)  # one epoch alone gets no fractions
            axes.set_ylim(bottom=0)
            if "accuracy" in name:
                axes.set_ylim(top=1)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 4), fontsize=9)

    text = "; ".join(
        f"{model_title(model)}: validation loss {curve.validation_loss[0]:.3f} after the first of {len(curve)} epochs, "
        f"{curve.validation_loss[-1]:.3f} after the last"
        if np.isfinite(curve.validation_loss).all()
        else f"{model_title(model)}: {len(curve)} epochs"
        for model, curve in training.items()
    )
    marks = ("filled", "hollow") if max(map(len, training.values())) == 1 else ("solid", "dashed")
    title = (
        f"Training of each network; {marks[0]}: validation slices, {marks[1]}: training slices (augmented, balanced)"
    )
    return draw("training", title, f"Training curves. {text}.", paint, width=8.6, height=3.4)
