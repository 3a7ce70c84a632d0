"""What a study says about its results."""

from cnr_iemn.evaluation.external_metrics import ExternalAccuracy
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.study_facts import ErrorFacts
from cnr_iemn.report.headline import headline
from cnr_iemn.report.population.sentences import population_sentence, subgroup_sentence
from cnr_iemn.report.tables import percentage, with_interval
from cnr_iemn.statistics.sample_size import half_width

_FILE = "metrics.json"


def result(metrics: StudyMetrics) -> Statement:
    """Return the headline."""
    return Statement(headline(metrics), "Results", _FILE)


def internal(metrics: StudyMetrics) -> Statement:
    """Return on which scans the study was measured."""
    return Statement(
        f"{metrics['n_patients']} validation scans of the same cohort, on which neither the networks nor stage 2 were "
        "trained.",
        "Results",
        _FILE,
    )


def population(metrics: StudyMetrics) -> Statement | None:
    """Return which groups of patients and scanners are known; None where none is."""
    if metrics["cohort_table"] is None or not metrics["cohort_table"]["groups"]:
        return None
    return Statement(population_sentence(metrics), "Cohort", "cohort.csv")


def subgroups(metrics: StudyMetrics) -> Statement | None:
    """Return whether the accuracy differs between groups; None where it was not tested."""
    sentence = subgroup_sentence(metrics)
    return Statement(sentence, "Subgroups", "subgroups.csv") if sentence else None


def metrics_used(metrics: StudyMetrics) -> Statement:
    """Return the measures that were computed."""
    names = ["accuracy", "balanced accuracy", "sensitivity by class", "macro F1", "macro AUC", "confusion matrix"]
    names += ["specificity, predictive values and likelihood ratios by class, ROC and precision-recall curves"]
    names += ["Brier score, log loss and expected calibration error"] if metrics["calibration"] else []
    names += ["net benefit"] if metrics["clinical_use"] else []
    return Statement(f"Computed: {', '.join(names)}.", "Results", _FILE)


def discrimination(metrics: StudyMetrics) -> Statement | None:
    """Return the area under the ROC curves; None where it is not defined."""
    auc = metrics["intervals"]["patient_bootstrap"]["macro_auc"]
    if auc["value"] is None:
        return None
    return Statement(
        f"Macro AUC {with_interval(auc)}%; curves of each class with bands where the scans suffice.",
        "ROC and precision-recall curves",
        _FILE,
    )


def rates(metrics: StudyMetrics) -> Statement:
    """Return the sensitivity of each class."""
    wilson = metrics["intervals"]["wilson"]
    texts = ", ".join(f"{name} {with_interval(estimate)}" for name, estimate in wilson["sensitivity"].items())
    return Statement(
        f"Accuracy {with_interval(wilson['accuracy'])}%; sensitivity, %: {texts}.", "Confidence intervals", _FILE
    )


def prevalence(metrics: StudyMetrics) -> Statement:
    """Return the shares of the classes among the validation scans."""
    shares = ", ".join(
        f"{name} {percentage(sum(row) / metrics['n_patients'])}"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
    )
    return Statement(
        f"Of the validation scans: {shares}. Predictive values hold at these shares alone.", "Clinical use", _FILE
    )


def precision(metrics: StudyMetrics) -> Statement:
    """Return what the number of scans can tell."""
    texts = ", ".join(
        f"{name} (n = {sum(row)}) ±{100 * half_width(metrics['sensitivity'][name] or 0.0, sum(row)):.1f} points"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
        if sum(row)
    )
    return Statement(f"The sensitivities are known to: {texts}.", "Clinical use", _FILE)


def confusion(metrics: StudyMetrics) -> Statement:
    """Return the cross tabulation."""
    rows = "; ".join(
        f"{name}: {', '.join(map(str, row))}"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
    )
    return Statement(f"Predicted {', '.join(metrics['classes'])}, by true class: {rows}.", "Results", _FILE)


def errors(counts: ErrorFacts) -> Statement:
    """Return which scans are wrong."""
    pairs = ", ".join(f"{true} predicted {predicted}: {count}" for (true, predicted), count in counts.pairs.items())
    n_wrong = sum(counts.pairs.values())
    return Statement(
        f"{n_wrong} of {counts.n} validation scans are wrong{f' ({pairs})' if pairs else ''}; the report "
        "shows them first, the most confident at the top.",
        "Patients",
        "patients.csv",
    )


def outputs(counts: ErrorFacts) -> Statement:
    """Return what is stored of the predictions."""
    return Statement(
        f"The probabilities of all {counts.n} validation scans and of each slice are stored, with checksums.",
        "Patients",
        "patients.csv, predictions.parquet and ensemble.json",
    )


def external(sets: tuple[ExternalAccuracy, ...]) -> Statement:
    """Return the results on external sets, or that no set was scored."""
    if not sets:
        return Statement("No external set was scored with this fit.", "Results", "external/")
    texts = "; ".join(
        f"{scores['set']}: accuracy {with_interval(scores['missing_as_wrong']['accuracy'])}%, {scores['n_predicted']} "
        f"of {scores['n_labelled']} scans predicted, the others counted as wrong"
        for scores in sets
    )
    return Statement(f"{texts}.", "model_card.md", "external/<set>/metrics.json")
