"""Tables of the evidence for stage 2: intervals, tests, stability, calibration, and paired comparisons."""

from collections.abc import Mapping
from itertools import chain
from typing import Literal

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import (
    INTERVAL,
    NONE,
    SELECTED,
    Cells,
    ResultTable,
    difference_bounds,
    difference_text,
    interval_text,
    make_table,
    percent,
    percentage,
    signed,
    training_scans,
)
from cnr_iemn.report.tables.clinical import clinical_tables
from cnr_iemn.report.tables.methods import (
    ablation_table,
    association_table,
    audit_table,
    method_table,
    near_duplicate_table,
    threshold_table,
)
from cnr_iemn.report.tables.results import (
    ensemble_title,
    has_paper_reference,
    model_title,
    paper_comparison_table,
    paper_result_table,
)
from cnr_iemn.report.tables.robustness import robustness_table
from cnr_iemn.report.tables.stability import stability_table
from cnr_iemn.stage2.abstention import ByClass, Undecided
from cnr_iemn.stage2.calibration_metrics import Calibration
from cnr_iemn.stage2.out_of_fold import FULL_DATA, OUT_OF_FOLD, PAPER
from cnr_iemn.statistics.confidence_intervals import RESAMPLES, Estimate, MetricName
from cnr_iemn.statistics.paired_tests import Comparison

Topic = Literal[
    "confidence",
    "comparisons",
    "variants",
    "paper",
    "probabilities",
    "clinical",
    "shortcuts",
    "duplicates",
    "robustness",
    "methods",
]
METRIC_TITLES: dict[MetricName, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
}
VARIANT_TITLES = {
    PAPER: "paper: training scans scored by networks that were trained on them",
    OUT_OF_FOLD: "out of fold: each training scan scored by networks that were not trained on it",
    FULL_DATA: "fitted out of fold, new scans scored by the full-data networks",
}


def evidence_tables(metrics: StudyMetrics) -> tuple[ResultTable, ...]:
    """Return the tables of all evidence that was collected."""
    return tuple(chain(*evidence_by_topic(metrics).values()))


def evidence_by_topic(metrics: StudyMetrics) -> dict[Topic, tuple[ResultTable, ...]]:
    """Return the same by topic; a topic without evidence has no table."""
    confidence = [interval_table(metrics)]
    if metrics["permutation_test"] is not None:
        confidence.append(permutation_table(metrics))
    if any(metrics["stability"].values()):
        confidence.append(stability_table(metrics))
    comparisons = [_comparison_table(metrics, "baseline", metrics["baseline_comparisons"])]
    if len(metrics["models"]) > 1:
        backbones = {model_title(name): comparison for name, comparison in metrics["comparisons"].items()}
        comparisons.append(_comparison_table(metrics, "backbone", backbones))
    probabilities = [calibration_table(metrics), abstention_table(metrics)] if metrics["calibration"] else []
    if metrics["operating_point"] is not None:
        probabilities.append(threshold_table(metrics))
    shortcuts = [audit_table(metrics), association_table(metrics)] if metrics["audit"] else []
    if metrics["ablations"] is not None:
        shortcuts.append(ablation_table(metrics))
    return {
        "confidence": tuple(confidence),
        "comparisons": tuple(comparisons),
        "variants": (variant_table(metrics),) if len(metrics["variants"]) > 1 else (),
        "paper": (paper_result_table(), paper_comparison_table()) if has_paper_reference(metrics) else (),
        "probabilities": tuple(probabilities),
        "clinical": clinical_tables(metrics),
        "shortcuts": tuple(shortcuts),
        "duplicates": () if metrics["near_duplicates"] is None else (near_duplicate_table(metrics),),
        "robustness": () if metrics["robustness"] is None else (robustness_table(metrics),),
        "methods": () if metrics["methods"] is None else (method_table(metrics),),
    }


def interval_table(metrics: StudyMetrics, *, by_class: bool = True) -> ResultTable:
    """Return the metrics of the ensemble with their intervals, in percent. ``by_class``: sensitivities, too."""
    wilson, bootstrap = metrics["intervals"]["wilson"], metrics["intervals"]["patient_bootstrap"]
    rows: list[tuple[str, tuple[Estimate, str]]] = [("accuracy", (wilson["accuracy"], "Wilson"))]
    if by_class:
        rows += [(f"sensitivity for {name}", (estimate, "Wilson")) for name, estimate in wilson["sensitivity"].items()]
    rows += [(title, (bootstrap[name], "bootstrap")) for name, title in METRIC_TITLES.items() if name != "accuracy"]
    return make_table(
        f"Confidence intervals, {ensemble_title(metrics)}, %",
        "metric",
        rows,
        {
            "value": lambda row: percent(row[0]["value"]),
            INTERVAL: lambda row: interval_text(row[0]),
            "method": lambda row: row[1],
        },
        notice=metrics.get("notice"),
        caption=(
            f"{metrics['n_patients']} validation scans. Wilson: score interval of a proportion. Bootstrap: "
            f"{RESAMPLES} resamples of patients within their class; the models stay fixed."
        ),
    )


def permutation_table(metrics: StudyMetrics) -> ResultTable:
    """Return the macro AUC beside that of permuted training labels."""
    test = metrics["permutation_test"]
    assert test is not None
    rows = (
        ("true labels", f"{test['observed']:.3f}", f"p = {test['p']:.2g}"),
        (f"{test['permutations']} permutations, mean", f"{test['null_mean']:.3f}", f"sd {test['null_sd']:.3f}"),
    )
    caption = (
        "Exact p, given stage 1, whose networks are not trained again. The permuted mean need not be 0.5: classes that "
        "differ in size and spread are ranked by permuted labels, too."
    )
    columns = ("training labels of stage 2", "macro AUC", "p or deviation")
    return ResultTable("Permutation test of stage 2", columns, rows, metrics.get("notice"), caption)


def calibration_table(metrics: StudyMetrics) -> ResultTable:
    """Return how well the probabilities are calibrated, before and after temperature scaling."""
    calibration = metrics["calibration"]
    assert calibration is not None
    states = {
        "uncalibrated": calibration["before"],
        f"at temperature {calibration['temperature']:.2f}": calibration["after"],
    }
    cells: Cells[Calibration] = {
        **CALIBRATION_CELLS,
        "slope by class": lambda state: ", ".join(
            NONE if slope is None else f"{slope:.2f}" for slope in state["slope"].values()
        ),
    }
    fitted = training_scans(calibration["learnt_on"], calibration["optimistic"])
    caption = (
        f"The temperature is fitted on {fitted}. Stage 2 fitted without its patient predicts each of them. "
        f"Calibrated probabilities would have a median ECE of {calibration['after']['ece_null'][1]:.3f} here. "
        f"{CALIBRATION_TERMS}"
    )
    title = f"Calibration, {metrics['n_patients']} validation scans"
    return make_table(title, "probabilities", states.items(), cells, notice=metrics.get("notice"), caption=caption)


CALIBRATION_TERMS = "ECE: expected calibration error. Smaller is better; the slope is best at 1."
CALIBRATION_CELLS: Cells[Calibration] = {
    "Brier score": lambda state: f"{state['brier']:.3f}",
    "log loss": lambda state: f"{state['log_loss']:.3f}",
    "ECE": lambda state: f"{state['ece']:.3f}",
    "ECE if calibrated, 5 to 95%": lambda state: f"{state['ece_null'][0]:.3f} to {state['ece_null'][2]:.3f}",
}


def abstention_table(metrics: StudyMetrics) -> ResultTable:
    """Return the share of scans that stage 2 leaves undecided, by class, in percent."""
    calibration = metrics["calibration"]
    assert calibration is not None
    undecided = calibration["undecided"]
    caption = (
        f"Undecided below a probability of {undecided['threshold']:.3f}, which aims to decide "
        f"{percentage(undecided['wanted_share'])} of new scans. {decided_text(undecided)}. Threshold fitted on "
        f"{training_scans(calibration['learnt_on'], calibration['optimistic'])}."
    )
    return make_table(
        "Selective prediction, %",
        "true class",
        undecided["classes"].items(),
        ABSTENTION_CELLS,
        notice=metrics.get("notice"),
        caption=caption,
    )


def decided_text(undecided: Undecided) -> str:
    """Return the share of decided scans and their accuracy, for a sentence."""
    share, accuracy = undecided["share_answered"], undecided["accuracy_among_answered"]
    return f"Decided here: {percentage(share)}, of which {percentage(accuracy)} are correct"


ABSTENTION_CELLS: Cells[ByClass] = {
    "scans": lambda row: str(row["n"]),
    "undecided": lambda row: percent(row["undecided"]),
    "sensitivity, decided scans": lambda row: percent(row["sensitivity_among_answered"]),
    "sensitivity, undecided counted as missed": lambda row: percent(row["sensitivity_of_all"]),
}


def variant_table(metrics: StudyMetrics) -> ResultTable:
    """Return the ways to build stage 2's features: the primary one, and the others on the same scans."""

    def note(name: str) -> str:
        variant = metrics["variants"][name]
        role = "primary" if variant["primary"] else "exploratory"
        return f"{role}; {SELECTED}" if variant["selected_on"] else role

    def difference(name: str) -> str:
        comparison = metrics["variant_comparisons"].get(name)
        return NONE if comparison is None else difference_text(comparison["difference"], comparison, reverse=True)

    cells: Cells[str] = {
        "accuracy": lambda name: percent(metrics["variants"][name]["accuracy"]),
        INTERVAL: lambda name: interval_text(metrics["variants"][name]["intervals"]["wilson"]["accuracy"]),
        "difference to primary": difference,
        "balanced accuracy": lambda name: percent(metrics["variants"][name]["balanced_accuracy"]),
        "note": note,
    }
    rows = [(VARIANT_TITLES[name], name) for name in metrics["variants"]]
    return make_table("Stage-2 variants, %", "variant", rows, cells, notice=metrics.get("notice"))


def _comparison_table(metrics: StudyMetrics, kind: str, comparisons: Mapping[str, Comparison]) -> ResultTable:
    """Return the ensemble against each baseline or backbone on the same scans."""
    cells: Cells[Comparison] = {
        "only ensemble correct": lambda comparison: str(comparison["only_first"]),
        f"only {kind} correct": lambda comparison: str(comparison["only_second"]),
        "difference, %": lambda comparison: signed(comparison["difference"]),
        INTERVAL: difference_bounds,
        "exact McNemar p": lambda comparison: f"{comparison['p']:.2g}",
        "p, Holm": lambda comparison: f"{comparison['p_holm']:.2g}",
    }
    return make_table(
        f"{ensemble_title(metrics)} against each {kind}, scans",
        kind,
        comparisons.items(),
        cells,
        notice=metrics.get("notice"),
        caption="Tango's score interval of the paired difference.",
    )
