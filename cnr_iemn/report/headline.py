"""The study's result in one paragraph: accuracy, against the strongest simple baseline and the majority class."""

from dataclasses import dataclass

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import (
    INTERVAL,
    NO_INTERVAL,
    difference_bounds,
    difference_text,
    interval_text,
    percent,
    percentage,
    signed,
)
from cnr_iemn.report.tables.results import ensemble_title
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.statistics.metrics import Scores


@dataclass(frozen=True)
class KeyFigure:
    """A number that heads the report. ``label``: what it is, with its interval."""

    value: str
    label: str


def headline(metrics: StudyMetrics) -> str:
    """Return the accuracy, the strongest baseline on the same scans and the majority class, in words."""
    accuracy, n = metrics["intervals"]["wilson"]["accuracy"], metrics["n_patients"]
    return (
        f"{ensemble_title(metrics)} is correct for {_n_correct(metrics)} of {n} validation scans: "
        f"{percent(accuracy['value'])}% {interval_text(accuracy)}. {baseline_sentence(metrics)} "
        f"{majority_sentence(metrics)}"
    )


def majority_sentence(metrics: StudyMetrics) -> str:
    """Return what the majority class alone would be correct for, in words."""
    majority = max(map(sum, metrics["confusion_matrix"]))
    share = percent(majority / metrics["n_patients"])
    return f"Always predicting the majority class would be correct for {majority}, {share}%."


def key_figures(metrics: StudyMetrics) -> tuple[KeyFigure, ...]:
    """Return accuracy, its difference to the strongest baseline with the paired test, and the balanced accuracy."""
    accuracy = metrics["intervals"]["wilson"]["accuracy"]
    balanced = metrics["intervals"]["patient_bootstrap"]["balanced_accuracy"]
    name = metrics["strongest_baseline"]
    scores, test = metrics["baselines"][name], metrics["baseline_comparisons"][name]
    return (
        KeyFigure(
            percentage(accuracy["value"]),
            f"accuracy: {_n_correct(metrics)} of {metrics['n_patients']} validation scans correct, "
            f"{_interval(accuracy)}",
        ),
        KeyFigure(
            f"{signed(test['difference'])} points",
            f"against the strongest of {len(metrics['baselines'])} simple baselines, {name} ({_n_correct(scores)} "
            f"correct, {percentage(scores['accuracy'])}): 95% interval {difference_bounds(test)}, exact McNemar "
            f"p = {test['p_holm']:.2g} (Holm)",
        ),
        KeyFigure(percentage(balanced["value"]), f"balanced accuracy, the mean of the recalls, {_interval(balanced)}"),
    )


def _interval(estimate: Estimate) -> str:
    text = interval_text(estimate)
    return text if text == NO_INTERVAL else f"{INTERVAL} {text}"


def baseline_sentence(metrics: StudyMetrics) -> str:
    """Return the paired test against the strongest simple baseline, in words."""
    name = metrics["strongest_baseline"]
    scores, test = metrics["baselines"][name], metrics["baseline_comparisons"][name]
    return (
        f"The strongest of {len(metrics['baselines'])} simple baselines, {name}, is correct for {_n_correct(scores)}, "
        f"{percent(scores['accuracy'])}%: difference {difference_text(test['difference'], test)} points, exact McNemar "
        f"p = {test['p_holm']:.2g} (Holm)."
    )


def _n_correct(scores: Scores) -> int:
    return sum(row[k] for k, row in enumerate(scores["confusion_matrix"]))
