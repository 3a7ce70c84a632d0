"""What a study says about its results."""

from cnr_iemn.evaluation.external_metrics import ExternalAccuracy
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.study_facts import ErrorFacts
from cnr_iemn.report.headline import headline
from cnr_iemn.report.population.sentences import (
    flow_sentence,
    plain_title,
    population_sentence,
    subgroup_sentence,
)
from cnr_iemn.report.tables import percentage, percentage_with_interval
from cnr_iemn.report.tables.external import answer_text, mixture_text
from cnr_iemn.statistics.sample_size import half_width

_FILE = "metrics.json"
_DEVICES = ("manufacturer", "model_family", "kernel", "slice_thickness", "tube_voltage", "contrast")


def result(metrics: StudyMetrics) -> Statement:
    """Return the headline."""
    return Statement(
        headline(metrics), "Results", f"{_FILE}: intervals.wilson.accuracy, baselines, baseline_comparisons"
    )


def internal(metrics: StudyMetrics) -> Statement:
    """Return on which scans the study was measured, and how the training scans compare."""
    selection_text = "; their slices chose the checkpoints" if metrics["selected_on"] else ""
    text = (
        f"Measured on {metrics['n_patients']} validation scans of the same cohort, on which neither the networks nor "
        f"stage 2 were trained{selection_text}."
    )
    keys = "n_patients, selected_on, balanced_accuracy"
    primary = (metrics["methods"] or {}).get(metrics["method"])
    if primary is not None and primary["cross_validation"] is not None:
        text += (
            f" Balanced accuracy {percentage(metrics['balanced_accuracy'])} there, and "
            f"{percentage(primary['cross_validation'])} of stage 2 in cross-validation on the training scans, which "
            "the networks may have seen."
        )
        keys += ", methods"
    return Statement(text, "Results", f"{_FILE}: {keys}")


def flow(metrics: StudyMetrics) -> Statement | None:
    """Return how the scans found became those of the two sides; None where it was not recorded."""
    if metrics["scan_flow"] is None:
        return None
    return Statement(flow_sentence(metrics["scan_flow"]), "Cohort", f"{_FILE}: scan_flow; figures/flow.svg")


def population(metrics: StudyMetrics) -> Statement | None:
    """Return which groups of patients and scanners are known; None where none is."""
    if metrics["cohort_table"] is None or not metrics["cohort_table"]["groups"]:
        return None
    return Statement(population_sentence(metrics), "Cohort", f"cohort.csv; {_FILE}: cohort_table.groups")


def unknown_values(metrics: StudyMetrics) -> Statement | None:
    """Return for how many scans each known variable is missing; None where no variable is known."""
    groups = {} if metrics["cohort_table"] is None else metrics["cohort_table"]["groups"]
    if not groups:
        return None
    counts = {}
    for name, group in groups.items():
        numbers = [n for n in group["missing"] if n is not None]
        counts[plain_title(name)] = None if len(numbers) < len(group["missing"]) else sum(numbers)
    words = {name: "number not shown" if n is None else f"{n} missing" for name, n in counts.items() if n != 0}
    texts = [f"{name} ({text})" for name, text in words.items()]
    complete = [name for name, n in counts.items() if n == 0]
    sentences = [f"Known of every scan: {', '.join(complete)}."] if complete else []
    if texts:
        sentences.append(f"Missing for some scans: {', '.join(texts)}; such scans count in all results but by group.")
    return Statement(" ".join(sentences), "Cohort", f"cohort.csv; {_FILE}: cohort_table.groups")


def devices(metrics: StudyMetrics) -> Statement | None:
    """Return which scanners and protocols occur, rare ones merged; None where none is known."""
    groups = {} if metrics["cohort_table"] is None else metrics["cohort_table"]["groups"]
    texts = [f"{plain_title(name)}: {', '.join(groups[name]['counts'])}" for name in _DEVICES if name in groups]
    if not texts:
        return None
    return Statement(
        f"From the files' headers, rare values merged: {'; '.join(texts)}.",
        "Cohort",
        f"cohort.csv; {_FILE}: cohort_table.groups",
    )


def subgroups(metrics: StudyMetrics) -> Statement | None:
    """Return whether the accuracy differs between groups; None where it was not tested."""
    sentence = subgroup_sentence(metrics)
    return Statement(sentence, "Subgroups", f"subgroups.csv; {_FILE}: subgroups") if sentence else None


def centres(metrics: StudyMetrics) -> Statement | None:
    """Return whether the accuracy differs between sites; None where no two sites are rated."""
    site = metrics["subgroups"].get("site")
    if site is None or site["interaction"] is None:
        return None
    test = site["interaction"]
    return Statement(
        f"Accuracy by site was tested with correctness permuted within the class: {test['groups']} sites, "
        f"{test['n']} validation scans, p = {test['p']:.2g}, with Holm's correction {test['p_holm']:.2g}.",
        "Subgroups",
        f"subgroups.csv; {_FILE}: subgroups.site",
    )


def metrics_used(metrics: StudyMetrics) -> Statement:
    """Return the measures that were computed."""
    names = ["accuracy", "balanced accuracy", "sensitivity by class", "macro F1", "macro AUC", "confusion matrix"]
    names += ["specificity, predictive values and likelihood ratios by class, ROC and precision-recall curves"]
    names += ["Brier score, log loss and expected calibration error"] if metrics["calibration"] else []
    names += ["net benefit"] if metrics["clinical_use"] else []
    return Statement(
        f"Computed: {', '.join(names)}.",
        "Results",
        f"{_FILE}: intervals, confusion_matrix; report.html; figures/roc.svg",
    )


def discrimination(metrics: StudyMetrics) -> Statement | None:
    """Return the area under the ROC curves; None where it is not defined."""
    auc = metrics["intervals"]["patient_bootstrap"]["macro_auc"]
    if auc["value"] is None:
        return None
    return Statement(
        f"Macro AUC {percentage_with_interval(auc)}; curves of each class with bands where the scans suffice.",
        "ROC and precision-recall curves",
        f"{_FILE}: intervals.patient_bootstrap.macro_auc; figures/roc.svg; figures/precision-recall.svg",
    )


def rates(metrics: StudyMetrics) -> Statement:
    """Return the sensitivity of each class."""
    wilson = metrics["intervals"]["wilson"]
    texts = ", ".join(
        f"{name} {percentage_with_interval(estimate)}" for name, estimate in wilson["sensitivity"].items()
    )
    return Statement(
        f"Accuracy {percentage_with_interval(wilson['accuracy'])}; sensitivity: {texts}.",
        "Confidence intervals",
        f"{_FILE}: intervals.wilson",
    )


def prevalence(metrics: StudyMetrics) -> Statement:
    """Return the shares of the classes among the validation scans."""
    shares = ", ".join(
        f"{name} {percentage(sum(row) / metrics['n_patients'])}"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
    )
    return Statement(
        f"Of the validation scans: {shares}. Predictive values hold at these shares alone.",
        "Results",
        f"{_FILE}: confusion_matrix",
    )


def precision(metrics: StudyMetrics) -> Statement:
    """Return what the number of scans can tell."""
    texts = ", ".join(
        f"{name} (n = {sum(row)}) ±{100 * half_width(metrics['sensitivity'][name] or 0.0, sum(row)):.1f} points"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
        if sum(row)
    )
    return Statement(
        f"Precision that these numbers of scans give: sensitivity for {texts}.",
        "Clinical use",
        f"{_FILE}: confusion_matrix, sensitivity",
    )


def confusion(metrics: StudyMetrics) -> Statement:
    """Return the cross tabulation."""
    rows = "; ".join(
        f"{name}: {', '.join(map(str, row))}"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
    )
    return Statement(
        f"Predicted {', '.join(metrics['classes'])}, by true class: {rows}.", "Results", f"{_FILE}: confusion_matrix"
    )


def errors(counts: ErrorFacts) -> Statement:
    """Return which scans are wrong."""
    pairs = ", ".join(f"{true} predicted {predicted}: {count}" for (true, predicted), count in counts.pairs.items())
    n_wrong = sum(counts.pairs.values())
    return Statement(
        f"{n_wrong} of {counts.n} validation scans are wrong{f' ({pairs})' if pairs else ''}; the report shows "
        "scans with the errors first, the most confident at the top.",
        "Patients",
        "patients.csv: label, predicted, split",
    )


def outputs(counts: ErrorFacts) -> Statement:
    """Return what is stored of the predictions."""
    return Statement(
        f"The probabilities of all {counts.n} validation scans and of each slice are stored, with checksums.",
        "Patients",
        "patients.csv; predictions.parquet of each run; run.json of each run: predictions_sha256; ensemble.json: files",
    )


def external(sets: tuple[ExternalAccuracy, ...]) -> Statement:
    """Return the results on external sets, or that no set had been scored by then."""
    if not sets:
        return Statement("No external set had been scored with this fit when this was written.", "", "")
    texts = "; ".join(
        f"{scores['set']}: {answer_text(scores)}, accuracy "
        f"{percentage_with_interval(scores['intervals']['wilson']['accuracy'])}, with the refused counted as wrong "
        f"{percentage_with_interval(scores['missing_as_wrong']['accuracy'])}{mixture_text(scores)}"
        for scores in sets
    )
    files = "; ".join(
        f"external/{scores['set']}/metrics.json: n_labelled, n_predicted, refused, intervals, missing_as_wrong"
        for scores in sets
    )
    return Statement(f"{texts}.", "External sets", files)
