"""The figures of a study, by name: drawn from its metrics, its predictions and its training."""

from collections.abc import Mapping, Sequence

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.figures.attribution import contribution_figure
from cnr_iemn.report.figures.calibration import reliability_figure, risk_figure
from cnr_iemn.report.figures.decision import decision_figure
from cnr_iemn.report.figures.discrimination import precision_recall_figure, roc_figure
from cnr_iemn.report.figures.results import accuracy_figure, confusion_figure, method_figure
from cnr_iemn.report.figures.robustness import robustness_figure
from cnr_iemn.report.figures.training import training_figure
from cnr_iemn.report.population.flow_figure import flow_figure
from cnr_iemn.report.svg import Drawing
from cnr_iemn.report.training_curves import TrainingCurve
from cnr_iemn.statistics.curves import ClassCurves


def study_figures(
    metrics: StudyMetrics, curves: Sequence[ClassCurves] = (), training: Mapping[str, TrainingCurve] | None = None
) -> dict[str, Drawing]:
    """Return the figures of everything that was measured, by name.

    Args:
        metrics: metrics.json.
        curves: Of the validation scans, by class.
        training: By model.
    """
    drawings = [confusion_figure(metrics), accuracy_figure(metrics)]
    if metrics["scan_flow"] is not None:
        drawings.append(flow_figure(metrics["scan_flow"]))
    if metrics["contributions"] is not None:
        drawings.append(contribution_figure(metrics))
    if curves:
        drawings += [roc_figure(metrics, curves), precision_recall_figure(metrics, curves)]
    if metrics["clinical_use"] is not None:
        drawings.append(decision_figure(metrics, metrics["clinical_use"]))
    if metrics["calibration"] is not None:
        drawings += [reliability_figure(metrics), risk_figure(metrics)]
    if metrics["robustness"] is not None:
        drawings.append(robustness_figure(metrics, metrics["robustness"]))
    if metrics["methods"] is not None:
        drawings.append(method_figure(metrics))
    if training:
        drawings.append(training_figure(training))
    return {drawing.name: drawing for drawing in drawings}
