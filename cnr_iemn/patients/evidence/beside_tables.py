"""What the figures of a study can and cannot tell: intervals, paired comparisons, and the ways beside the declared."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from cnr_iemn.patients.evidence.audit_tables import ablation_table, use_table
from cnr_iemn.patients.evidence.cells import INTERVAL, ends, interval_text, percent, signed
from cnr_iemn.patients.evidence.method_tables import method_table, operating_point_table
from cnr_iemn.patients.evidence.paper_figures import paper_comparison_table, paper_figure_table
from cnr_iemn.patients.evidence.spread_tables import spread_table
from cnr_iemn.patients.evidence.tables import SELECTED, ResultTable, beside_the_paper, ensemble_title, model_title
from cnr_iemn.patients.intervals import RESAMPLES
from cnr_iemn.patients.out_of_fold import FULL_DATA, OUT_OF_FOLD, PAPER
from cnr_iemn.registry import BOOSTER

_FIGURES = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "macro_auc": "macro AUC"}
LEAK = "Permuted training labels do not lead to chance: something leaks, and no figure of this study can be trusted."
ARM_TITLES = {
    PAPER: "paper: scans that trained the networks are scored by them",
    OUT_OF_FOLD: "out of fold: no network scores what trained it",
    FULL_DATA: "learnt out of fold, new scans scored by full-data networks",
}


def evidence_tables(metrics: Mapping[str, Any]) -> tuple[ResultTable, ...]:
    """Return the tables of all the evidence that there is."""
    return tuple(chain(*evidence_by_topic(metrics).values()))


def evidence_by_topic(metrics: Mapping[str, Any]) -> dict[str, tuple[ResultTable, ...]]:
    """Return the same by what they are about: trust, probabilities, shortcuts, methods."""
    trust = [interval_table(metrics)]
    if metrics["permutation_test"] is not None:
        trust.append(permutation_table(metrics))
    if any(metrics["spread"].values()):
        trust.append(spread_table(metrics))
    if len(metrics["models"]) > 1:
        trust.append(comparison_table(metrics))
    if len(metrics["arms"]) > 1:
        trust.append(arm_table(metrics))
    if beside_the_paper(metrics):
        trust += [paper_figure_table(), paper_comparison_table()]
    calibrated = metrics["calibration"] is not None
    probabilities = [calibration_table(metrics), undecided_table(metrics)] if calibrated else []
    if metrics["operating_point"] is not None:
        probabilities.append(operating_point_table(metrics))
    shortcuts = [] if metrics["audit"] is None else [audit_table(metrics), use_table(metrics)]
    if metrics["ablations"] is not None:
        shortcuts.append(ablation_table(metrics))
    return {
        "trust": tuple(trust),
        "probabilities": tuple(probabilities),
        "shortcuts": tuple(shortcuts),
        "methods": () if metrics["methods"] is None else (method_table(metrics),),
    }


def interval_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return every figure of the ensemble with its interval, in percent."""
    wilson, bootstrap = metrics["intervals"]["wilson"], metrics["intervals"]["patient_bootstrap"]
    entries = [
        ("accuracy", wilson["accuracy"], "Wilson"),
        *((f"sensitivity for {name}", each, "Wilson") for name, each in wilson["sensitivity"].items()),
        ("accuracy", bootstrap["accuracy"], "bootstrap"),
        *((title, bootstrap[name], "bootstrap") for name, title in _FIGURES.items()),
    ]
    rows = tuple((name, percent(each["value"]), interval_text(each), how) for name, each, how in entries)
    caption = (
        f"{metrics['n_patients']} validation scans. Bootstrap: {RESAMPLES} resamples of patients within their class, "
        f"the models as they are. What lies in one interval these scans cannot tell apart."
    )
    title = f"How far {ensemble_title(metrics)}'s figures can be trusted, %"
    return ResultTable(title, ("figure", "value", INTERVAL, "how"), rows, metrics.get("notice"), caption)


def permutation_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the macro AUC beside that of permuted training labels."""
    test = metrics["permutation_test"]
    low, high = test["band"]
    rows = (
        ("true labels", f"{test['observed']:.3f}", f"p = {test['p']:.2g}"),
        (f"{test['permutations']} permutations", f"{test['null_mean']:.3f}", f"sd {test['null_sd']:.3f}"),
    )
    caption = (
        "Given stage 1, whose networks are not trained again. The permuted mean is to lie in "
        f"[{low:.3f}, {high:.3f}]: {LEAK if test['leaks'] else 'it does.'}"
    )
    columns = ("training labels of stage 2", "macro AUC", "")
    return ResultTable("Could stage 2 be as good by chance?", columns, rows, metrics.get("notice"), caption)


def calibration_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return how well the booster's probabilities fit what was true, before and after the temperature."""
    found = metrics["calibration"]
    median = found["after"]["ece_null"][1]
    rows = tuple(
        (
            name,
            f"{each['brier']:.3f}",
            f"{each['log_loss']:.3f}",
            f"{each['ece']:.3f}",
            f"{each['ece_null'][0]:.3f} to {each['ece_null'][2]:.3f}",
            ", ".join("–" if slope is None else f"{slope:.2f}" for slope in each["slope"].values()),
        )
        for name, each in (
            ("as the booster gives them", found["before"]),
            (f"at temperature {found['temperature']:.2f}", found["after"]),
        )
    )
    learnt = f"The temperature is learnt on {found['learnt_on']} training scans, each answered by boosters without it. "
    if metrics["method"] == PAPER:
        learnt += (
            "Their features are of networks that some of them have trained: it may be too low (out of fold: not). "
        )
    caption = (
        learnt + f"Perfect probabilities would have an expected calibration error of {median:.3f} here, in the median."
    )
    columns = ("probabilities", "Brier", "log-loss", "ECE", "ECE if perfect, 5 to 95%", "slope by class")
    title = f"Calibration, {metrics['n_patients']} validation scans"
    return ResultTable(title, columns, rows, metrics.get("notice"), caption)


def undecided_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return what the booster leaves undecided, by class, in percent."""
    found = metrics["calibration"]["undecided"]
    rows = tuple(
        (
            name,
            str(each["n"]),
            percent(each["undecided"]),
            percent(each["sensitivity_among_answered"]),
            percent(each["sensitivity_of_all"]),
        )
        for name, each in found["classes"].items()
    )
    caption = (
        f"Undecided below a probability of {found['threshold']:.3f}, which was to answer "
        f"{percent(found['wanted_share'])}% of the training scans. Answered here: {percent(found['share_answered'])}%, "
        f"of them {percent(found['accuracy_among_answered'])}% right."
    )
    columns = ("true class", "scans", "undecided", "sensitivity, answered", "sensitivity, undecided = missed")
    return ResultTable("Undecided, %", columns, rows, metrics.get("notice"), caption)


def comparison_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the ensemble against each backbone on the same scans."""
    entries = {model_title(name): each for name, each in metrics["comparisons"].items()}
    return _compared(metrics, f"{ensemble_title(metrics)} against each backbone, scans", entries)


def arm_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the ways to make stage 2's features: the declared one, and the others on the same scans."""
    rows = []
    for name, each in metrics["arms"].items():
        wilson = each["intervals"]["wilson"]["accuracy"]
        against = metrics["arm_comparisons"].get(name)
        confirmatory = each["declared"] and metrics["confirmatory"] == BOOSTER
        role = "declared before the run" if confirmatory else "exploratory"
        note = f"{role}; {SELECTED}" if each["selected_on"] else role
        difference = "–" if against is None else f"{signed(-against['difference'])} {ends(against, sign=-1)}"
        cells = (ARM_TITLES[name], percent(each["accuracy"]), interval_text(wilson), difference)
        rows.append((*cells, percent(each["balanced_accuracy"]), note))
    columns = ("stage 2", "accuracy", INTERVAL, "less the declared", "balanced accuracy", "note")
    return ResultTable("Stage 2, %", columns, tuple(rows), metrics.get("notice"))


def audit_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return how well the classes are told by what must not matter."""
    audit = metrics["audit"]
    low, _, high = audit["null"]
    rows = [("all together", f"{audit['auc']:.3f}"), *((name, f"{auc:.3f}") for name, auc in audit["alone"].items())]
    verdict = (
        "Alarm: something other than the lungs tells the classes. The networks may use it or not: compare cohorts, "
        "scanners and protocols before any figure is believed."
        if audit["alarm"]
        else "No alarm."
    )
    caption = (
        f"{audit['n']} scans; AUC of the class that is told best, scans left out. Permuted classes: {low:.3f} to "
        f"{high:.3f} (5 to 95%), p = {audit['p']:.2g}. {verdict}"
    )
    title = "Can the classes be told without the lungs?"
    return ResultTable(title, ("shortcut", "AUC"), tuple(rows), metrics.get("notice"), caption)


def _compared(metrics: Mapping[str, Any], title: str, entries: Mapping[str, Mapping[str, Any]]) -> ResultTable:
    columns = ("against", "only ours right", "only it right", "difference, %", INTERVAL, "exact McNemar p", "p, Holm")
    rows = tuple(
        (
            name,
            str(each["only_first"]),
            str(each["only_second"]),
            signed(each["difference"]),
            ends(each),
            f"{each['p']:.2g}",
            f"{each['p_holm']:.2g}",
        )
        for name, each in entries.items()
    )
    return ResultTable(title, columns, rows, metrics.get("notice"), "Interval of the paired difference: Tango's score.")
