"""The evidence for a result in a few sentences: test, calibration, audit, near-duplicates, robustness, methods."""

from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.population.sentences import subgroup_sentence
from cnr_iemn.report.tables import difference_text, percentage
from cnr_iemn.report.tables.robustness import robustness_sentence


def evidence_sentences(metrics: StudyMetrics) -> tuple[str, ...]:
    """Return one sentence for each analysis that was requested and could be measured."""
    sentences = (
        _permutation_sentence(metrics),
        _calibration_sentence(metrics),
        _audit_sentence(metrics),
        subgroup_sentence(metrics),
        _near_duplicate_sentence(metrics),
        robustness_sentence(metrics),
        _method_sentence(metrics),
    )
    return tuple(filter(None, sentences))


def _permutation_sentence(metrics: StudyMetrics) -> str:
    test = metrics["permutation_test"]
    if test is None:
        return ""
    return (
        f"Permutation test: p = {test['p']:.2g}; macro AUC {test['observed']:.2f}, with permuted training labels "
        f"{test['null_mean']:.2f} on average ({test['permutations']} permutations)."
    )


def _calibration_sentence(metrics: StudyMetrics) -> str:
    calibration = metrics["calibration"]
    if calibration is None:
        return ""
    low, _, high = calibration["after"]["ece_null"]
    undecided, share = calibration["undecided"], calibration["undecided"]["share_answered"]
    return (
        f"Calibration: expected calibration error {calibration['after']['ece']:.3f} (well calibrated: {low:.3f} to "
        f"{high:.3f}); of the {percentage(share)} of scans above the threshold "
        f"{percentage(undecided['accuracy_among_answered'])} are correct."
    )


def _audit_sentence(metrics: StudyMetrics) -> str:
    audit = metrics["audit"]
    if audit is None:
        return ""
    end = "an alarm: look at the audit in the report" if audit["alarm"] else "no alarm"
    return f"Shortcut audit: AUC {audit['auc']:.2f} without the lungs, p = {audit['p']:.2g}: {end}."


def _near_duplicate_sentence(metrics: StudyMetrics) -> str:
    report = metrics["near_duplicates"]
    if report is None or not report["pairs"]:  # the report says so
        return ""
    first = report["pairs"][0]
    more = f", and {len(report['pairs']) - 1} more" if len(report["pairs"]) > 1 else ""
    return (
        f"Near-duplicates across the split: an alarm: {first['training']} and {first['validation']} (correlation "
        f"{first['similarity']:.2f}){more}; look at them in the report."
    )


def _method_sentence(metrics: StudyMetrics) -> str:
    """Compare with the best exploratory method by cross-validation, which has not seen the validation scans."""
    alternatives = {
        name: method
        for name, method in (metrics["methods"] or {}).items()
        if not method["primary"] and method["cross_validation"] is not None
    }
    if not alternatives:
        return ""
    name = max(alternatives, key=lambda method: alternatives[method]["cross_validation"] or 0.0)
    method = alternatives[name]
    difference = difference_text(method["comparison"]["difference"], method["comparison"], reverse=True)
    return (
        f"Best other stage-2 method by cross-validation: {name}, accuracy {percentage(method['accuracy'])} on the "
        f"validation scans, difference {difference} points."
    )
