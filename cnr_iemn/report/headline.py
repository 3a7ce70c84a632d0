"""The study's result in one paragraph: accuracy, against the strongest simple baseline and the majority class."""

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import difference_text, interval_text, percent
from cnr_iemn.report.tables.results import ensemble_title
from cnr_iemn.statistics.metrics import Scores


def headline(metrics: StudyMetrics) -> str:
    """Return the accuracy, the strongest baseline on the same scans and the majority class, in words."""
    accuracy, n = metrics["intervals"]["wilson"]["accuracy"], metrics["n_patients"]
    majority = max(map(sum, metrics["confusion_matrix"]))
    return (
        f"{ensemble_title(metrics)} is correct for {_n_correct(metrics)} of {n} validation scans: "
        f"{percent(accuracy['value'])}% {interval_text(accuracy)}. {baseline_sentence(metrics)} Always predicting the "
        f"majority class would be correct for {majority}, {percent(majority / n)}%."
    )


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
