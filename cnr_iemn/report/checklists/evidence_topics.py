"""What a study says about the evidence for its results: intervals, repeats, calibration, thresholds, limits."""

from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.evaluation.clinical.analysis_plan import PLAN_FILE, PlanRecord
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.tables import percent, percentage, percentage_with_interval
from cnr_iemn.report.tables.clinical import ratio_text
from cnr_iemn.report.tables.plan import plan_sentence
from cnr_iemn.report.tables.robustness import robustness_sentence
from cnr_iemn.schemas import READER
from cnr_iemn.statistics.confidence_intervals import RESAMPLES

_FILE = "metrics.json"
_FEW = 20
"""Scans of a class below which its sensitivity is known to no better than 20 points at worst."""


def uncertainty(metrics: StudyMetrics) -> Statement:
    """Return intervals and tests."""
    permutation = metrics["permutation_test"]
    text = (
        f"Wilson's score interval for proportions, {RESAMPLES} bootstrap resamples of patients for other metrics, "
        f"exact McNemar tests against {len(metrics['baselines'])} baselines with Holm's correction"
    )
    if permutation is not None:
        text += (
            f", a permutation test of stage 2 ({permutation['permutations']} permutations, p = {permutation['p']:.2g})"
        )
    return Statement(
        f"{text}.", "Confidence intervals; Backbones and baselines", f"{_FILE}: intervals, baseline_comparisons"
    )


def stability(metrics: StudyMetrics) -> Statement | None:
    """Return how far the accuracy moves with training scans, seeds and splits; None where nothing was repeated."""
    texts = []
    refits = metrics["stability"]["refits"]
    if refits is not None:
        texts.append(
            f"{refits['n']} fits of stage 2 on resampled training patients: accuracy "
            f"{percent(refits['accuracy']['mean'])}% (sd {percent(refits['accuracy']['sd'])}); "
            f"{percentage(refits['changes_any'])} of the scans change their class at least once"
        )
    for name in ("seeds", "splits"):
        repeats = metrics["stability"][name]
        if repeats is not None:
            texts.append(f"{len(repeats['replicates'])} {name}: accuracy {percent(repeats['accuracy']['mean'])}%")
    return Statement(f"{'; '.join(texts)}.", "Confidence intervals", f"{_FILE}: stability") if texts else None


def ablations(metrics: StudyMetrics) -> Statement | None:
    """Return how the accuracy changes with altered input; None where it was not measured."""
    if metrics["ablations"] is None:
        return None
    rows = metrics["ablations"]["rows"]
    texts = "; ".join(f"{name}: accuracy {percentage(row['accuracy'])}" for name, row in rows.items())
    return Statement(f"The networks on altered images: {texts}.", "Shortcut audit", f"{_FILE}: ablations")


def robustness(metrics: StudyMetrics) -> Statement | None:
    """Return how many answers change with perturbed scans; None where it was not measured."""
    text = robustness_sentence(metrics)
    return Statement(text, "Robustness", f"{_FILE}: robustness") if text else None


def attribution(metrics: StudyMetrics) -> Statement | None:
    """Return how predictions are explained; None where the method gives no contributions."""
    if metrics["contributions"] is None:
        return None
    kind = "Exact SHAP values" if metrics["method"] == BOOSTER_METHOD else "Contributions"
    return Statement(
        f"{kind} of the groups of slices to the log-odds of each class, for each validation scan: what the model is "
        "sensitive to, not lesions.",
        "Feature attribution",
        f"{_FILE}: contributions",
    )


def calibration(metrics: StudyMetrics) -> Statement | None:
    """Return how well the probabilities are calibrated; None where it was not measured."""
    fit = metrics["calibration"]
    if fit is None:
        return None
    return Statement(
        f"Expected calibration error {fit['before']['ece']:.3f}, with temperature {fit['temperature']:.2f} "
        f"{fit['after']['ece']:.3f}.",
        "Calibration",
        f"{_FILE}: calibration",
    )


def updating(metrics: StudyMetrics) -> Statement | None:
    """Return whether the model was changed after evaluation; None without calibration."""
    fit = metrics["calibration"]
    if fit is None:
        return None
    return Statement(
        f"Nothing is fitted on the validation scans and the model was not updated after them; temperature and "
        f"thresholds are fitted on {fit['learnt_on']} training scans.",
        "Calibration",
        f"{_FILE}: calibration.temperature, calibration.learnt_on",
    )


def undecided(metrics: StudyMetrics) -> Statement | None:
    """Return how uncertain predictions are handled; None without calibration."""
    if metrics["calibration"] is None:
        return None
    fit = metrics["calibration"]["undecided"]
    return Statement(
        f"Below a calibrated probability of {fit['threshold']:.3f} a scan is undecided: "
        f"{percentage(1 - fit['share_answered'])} here. Accuracy and sensitivity count them with their most probable "
        "class.",
        "Calibration",
        f"{_FILE}: calibration.undecided",
    )


def threshold(metrics: StudyMetrics) -> Statement | None:
    """Return how the decision threshold was fit; None where no class has one."""
    point = metrics["operating_point"]
    if point is None:
        return None
    return Statement(
        f"For {point['label']} a threshold of {point['threshold']:.3f}, set on {point['learnt_on']} training scans for "
        f"a sensitivity of {percentage(point['target_sensitivity'])} on new scans.",
        "Calibration",
        f"{_FILE}: operating_point",
    )


def decision(metrics: StudyMetrics) -> Statement | None:
    """Return the decision at its threshold; None where no class has one."""
    use, point = metrics["clinical_use"], metrics["operating_point"]
    if use is None or point is None:
        return None
    return Statement(
        f"{use['label']} at its threshold: sensitivity {percentage_with_interval(point['sensitivity'])}, specificity "
        f"{percentage_with_interval(point['specificity'])}, likelihood ratios {ratio_text(use['positive_ratio'])} and "
        f"{ratio_text(use['negative_ratio'])}.",
        "Clinical use",
        f"{_FILE}: operating_point, clinical_use",
    )


def plan(record: PlanRecord) -> Statement:
    """Return when the analysis was planned, and how far the plan was kept."""
    return Statement(plan_sentence(record), "Analysis plan", f"{PLAN_FILE}: entries, settings")


def audit(metrics: StudyMetrics) -> Statement | None:
    """Return whether something that is not lung predicts the classes; None where it was not measured."""
    shortcuts = metrics["audit"]
    if shortcuts is None:
        return None
    end = "an alarm" if shortcuts["alarm"] else "no alarm"
    return Statement(
        f"Acquisition and all that is not lung predict the classes with an AUC of {shortcuts['auc']:.2f} (p = "
        f"{shortcuts['p']:.2g}): {end}.",
        "Shortcut audit",
        f"{_FILE}: audit",
    )


def limitations(metrics: StudyMetrics) -> Statement:
    """Return the limits that the run itself knows."""
    texts = ["one validation set of the same cohort"]
    texts += [metrics["notice"]] if "notice" in metrics else []
    texts += ["checkpoints were selected on the validation scans"] if metrics["selected_on"] else []
    texts += ["weak slice labels"] if metrics["slice_labels"] != READER else []
    texts += (
        ["the shortcut audit raises an alarm"] if metrics["audit"] is not None and metrics["audit"]["alarm"] else []
    )
    few = [
        f"{sum(row)} validation scans of {name}"
        for name, row in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
        if sum(row) < _FEW
    ]
    texts += [f"only {', '.join(few)}"] if few else []
    if metrics["calibration"] is not None and metrics["calibration"]["optimistic"]:
        texts.append("temperature and thresholds are fitted on scans that trained the networks")
    texts.append(f"closed set: any scan is assigned to one of {len(metrics['classes'])} classes")
    return Statement(
        f"{'; '.join(texts)[0].upper()}{'; '.join(texts)[1:]}.",
        "Results",
        f"{_FILE}: selected_on, slice_labels, confusion_matrix",
    )
