"""The sections of report.html that show the metrics, in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.forest import Forest, comparison_forest, method_forest
from cnr_iemn.report.population.tables import cohort_result_table, subgroup_forest
from cnr_iemn.report.svg import Drawing
from cnr_iemn.report.tables import Cells, ResultTable, make_table, with_interval
from cnr_iemn.report.tables.clinical import ratio_text
from cnr_iemn.report.tables.evidence import evidence_by_topic, interval_table
from cnr_iemn.report.tables.results import confusion_table, ensemble_title, scans_text, slice_table
from cnr_iemn.statistics.curves import ClassCurves


@dataclass(frozen=True)
class Section:
    """A section of the page: text, figures, forest plots, tables, and tables that are folded. ``key``: its anchor.

    ``prose``: the cells of its tables are sentences, not numbers.
    """

    key: str
    heading: str
    text: str = ""
    drawings: tuple[Drawing, ...] = ()
    forests: tuple[Forest, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    details: tuple[ResultTable, ...] = ()
    prose: bool = False

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.drawings or self.forests or self.tables or self.details)


def sections(
    metrics: StudyMetrics, drawings: Mapping[str, Drawing], curves: Sequence[ClassCurves] = ()
) -> list[Section]:
    """Return the sections after the result; empty ones are left out. ``curves``: of the validation scans."""
    every = [
        *_accuracy_sections(metrics, drawings, curves),
        *_population_sections(metrics, drawings),
        *_model_sections(metrics, drawings),
    ]
    return [section for section in every if section.has_content or section.key == "attribution"]


def _accuracy_sections(
    metrics: StudyMetrics, drawings: Mapping[str, Drawing], curves: Sequence[ClassCurves]
) -> list[Section]:
    """Return how good the predictions are, against what, and how sure that is."""
    tables = evidence_by_topic(metrics)
    paper = (confusion_table(metrics), *tables["paper"]) if tables["paper"] else ()
    return [
        Section("comparison", "Backbones and baselines", forests=(comparison_forest(metrics),), details=paper),
        Section(
            "discrimination",
            "ROC and precision-recall curves",
            drawings=_figures(drawings, "roc", "precision-recall"),
            tables=(rate_table(metrics, curves),) if curves else (),
        ),
        Section(
            "confidence",
            "Confidence intervals",
            tables=(interval_table(metrics, by_class=False),),
            details=tables["confidence"][1:],
        ),
        Section(
            "calibration",
            "Calibration",
            drawings=_figures(drawings, "reliability", "risk"),
            tables=tables["probabilities"][:1],
            details=tables["probabilities"][1:],
        ),
        Section(
            "clinical",
            "Clinical use",
            drawings=_figures(drawings, "decision"),
            tables=tables["clinical"],
        ),
        Section(
            "shortcuts",
            "Shortcut audit",
            "An alarm means that a shortcut exists, not that the networks use it.",
            tables=tables["shortcuts"][:1],
            details=tables["shortcuts"][1:],
        ),
        Section("duplicates", "Near-duplicates", tables=tables["duplicates"]),
        Section(
            "robustness",
            "Robustness",
            "The validation scans are read again with one small change each, for the same networks and stage 2.",
            drawings=_figures(drawings, "robustness"),
            tables=tables["robustness"],
        ),
    ]


def _population_sections(metrics: StudyMetrics, drawings: Mapping[str, Drawing]) -> list[Section]:
    """Return who the scans are of, and for whom the predictions are right."""
    table, forest = cohort_result_table(metrics), subgroup_forest(metrics)
    return [
        Section("subgroups", "Subgroups", forests=() if forest is None else (forest,)),
        Section("cohort", "Cohort", drawings=_figures(drawings, "flow"), tables=() if table is None else (table,)),
    ]


def _model_sections(metrics: StudyMetrics, drawings: Mapping[str, Drawing]) -> list[Section]:
    """Return what stage 2 and the networks do."""
    return [
        Section(
            "methods",
            "Stage-2 variants",
            "Other ways from the same slice predictions to the class of the scan. Choose by cross-validation.",
            forests=(method_forest(metrics),) if metrics["methods"] else (),
            tables=evidence_by_topic(metrics)["variants"],
        ),
        Section(
            "attribution",
            "Feature attribution",
            attribution_text(metrics),
            drawings=_figures(drawings, "contributions"),
        ),
        Section(
            "slices", "Slices and training", drawings=_figures(drawings, "training"), tables=(slice_table(metrics),)
        ),
    ]


def _figures(drawings: Mapping[str, Drawing], *names: str) -> tuple[Drawing, ...]:
    return tuple(drawings[name] for name in names if name in drawings)


def attribution_text(metrics: StudyMetrics) -> str:
    """Return what the contributions are, or that the method has none."""
    if metrics["contributions"] is None:
        return f"The stage-2 method, {metrics['method']}, does not say what each slice contributes."
    what = "contribution of a group's slices to the log-odds of the scan's class"
    if metrics["method"] == BOOSTER_METHOD:
        what += ": of XGBoost, exact SHAP values of the percentages of slices that a backbone assigns to each class"
    return f"Model sensitivity, not lesion or cause. The {what}."


def rate_table(metrics: StudyMetrics, curves: Sequence[ClassCurves]) -> ResultTable:
    """Return the rates of each class against the others where the most probable class is the prediction, in percent."""
    cells: Cells[ClassCurves] = {
        "sensitivity": lambda curve: with_interval(curve.rates.sensitivity),
        "specificity": lambda curve: with_interval(curve.rates.specificity),
        "positive predictive value": lambda curve: with_interval(curve.rates.ppv),
        "negative predictive value": lambda curve: with_interval(curve.rates.npv),
        "LR+": lambda curve: ratio_text(curve.rates.ratios.positive),
        "LR-": lambda curve: ratio_text(curve.rates.ratios.negative),
    }
    return make_table(
        f"Operating point of each class, {ensemble_title(metrics)}; rates in %; {scans_text(metrics)}",
        "class",
        ((curve.label, curve) for curve in curves),
        cells,
        caption="The most probable class is the prediction. LR: likelihood ratio. Wilson's 95% intervals, Koopman's of "
        "LR. Predictive values hold at the class frequencies of these scans.",
    )
