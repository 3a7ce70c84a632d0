"""Tables of external validation sets, and of two studies on the same scans."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cnr_iemn.constants import PAPER_COHORT, PAPER_COUNTS
from cnr_iemn.evaluation.external_metrics import AnswerCounts, ExternalAccuracy, ExternalCalibration, ExternalMetrics
from cnr_iemn.evaluation.peer_comparison import PeerComparison
from cnr_iemn.evaluation.study_comparison import PairedMetric, StudyComparison
from cnr_iemn.report.tables import (
    NONE,
    Cells,
    ResultTable,
    difference_text,
    interval_text,
    make_table,
    percentage,
    training_scans,
    with_interval,
)
from cnr_iemn.report.tables.clinical import decision_table, expected_table, net_benefit_table
from cnr_iemn.report.tables.evidence import ABSTENTION_CELLS, CALIBRATION_CELLS, CALIBRATION_TERMS, METRIC_TITLES
from cnr_iemn.report.tables.results import ensemble_title, is_paper_ensemble
from cnr_iemn.statistics.confidence_intervals import RESAMPLES, Proportions, wilson

_NOTHING_FITTED = "Nothing was fitted on these scans."


def external_tables(sets: Mapping[str, ExternalMetrics]) -> tuple[ResultTable, ...]:
    """Return the tables of all sets; calibration and abstention where the ensemble has a temperature.

    Each says which scans its figures leave out: refusals cannot make a figure better unseen.
    """
    metrics = list(sets.values())
    tables = [accuracy_table(metrics), sensitivity_table(metrics)]
    calibrations = {name: scores["calibration"] for name, scores in sets.items() if scores["calibration"] is not None}
    if calibrations:
        notice = metrics[0].get("notice")
        tables += [_calibration_table(calibrations, notice), _abstention_table(calibrations, notice)]
    counts = " ".join(f"{scores['set']}: {answer_text(scores)}." for scores in metrics)
    return tuple(replace(table, caption=f"{table.caption} {counts}") for table in (*tables, *_clinical_tables(sets)))


def answer_text(counts: AnswerCounts) -> str:
    """Return how many scans were given, refused and why, and rated, as a part of a sentence."""
    refused = counts["refused"]
    codes = f" ({_code_counts(refused)})" if refused else ""
    return (
        f"{counts['n_labelled']} scans given, {sum(refused.values())} refused{codes}, {counts['n_predicted']} answered "
        "and rated"
    )


def _code_counts(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {n}" for code, n in refused.items())


def external_summary(sets: Sequence[ExternalAccuracy], *, notice: str | None = None) -> ResultTable:
    """Return a row for each set that this fit was scored on, for the report."""
    cells: Cells[ExternalAccuracy] = {
        "scans": lambda scores: f"{answer_text(scores)}{mixture_text(scores)}",
        "accuracy, %": lambda scores: with_interval(scores["intervals"]["wilson"]["accuracy"]),
        "accuracy, refused counted as wrong, %": lambda scores: with_interval(scores["missing_as_wrong"]["accuracy"]),
    }
    rows = [(scores["set"], scores) for scores in sets]
    caption = f"{_NOTHING_FITTED} Wilson's interval. All figures of a set: external/<set>/metrics.json."
    return make_table("External sets", "set", rows, cells, notice=notice, caption=caption)


def _clinical_tables(sets: Mapping[str, ExternalMetrics]) -> list[ResultTable]:
    """Return decision, counts to expect and net benefit of the sets where a decision could be measured."""
    uses = {name: scores["clinical_use"] for name, scores in sets.items() if scores["clinical_use"] is not None}
    if not uses:
        return []
    notice = next(iter(sets.values())).get("notice")
    tables = []
    for name, use in uses.items():
        tables += [
            decision_table(use, notice=notice, scans=f"{name}, "),
            expected_table(use, notice=notice, scans=f"{name} "),
        ]
    return [*tables, net_benefit_table(uses, notice=notice)]


def accuracy_table(sets: Sequence[ExternalMetrics]) -> ResultTable:
    """Return the metrics of each set, in percent with their intervals."""
    cells: Cells[ExternalMetrics] = {
        "answered and rated": lambda metrics: f"{metrics['n_predicted']} of {metrics['n_labelled']}",
        "accuracy": lambda metrics: with_interval(metrics["intervals"]["wilson"]["accuracy"]),
        "accuracy, refused counted as wrong": lambda metrics: with_interval(metrics["missing_as_wrong"]["accuracy"]),
        "balanced accuracy": lambda scores: with_interval(
            scores["intervals"]["patient_bootstrap"]["balanced_accuracy"]
        ),
        "macro F1": lambda metrics: with_interval(metrics["intervals"]["patient_bootstrap"]["macro_f1"]),
        "macro AUC": lambda metrics: with_interval(metrics["intervals"]["patient_bootstrap"]["macro_auc"]),
    }
    caption = (
        f"{_NOTHING_FITTED} Accuracy: Wilson's interval; the others: {RESAMPLES} resamples of patients within their "
        "class, the models stay fixed, means over the classes that occur. Undecided scans are rated too."
        f"{_mixture(sets[-1])}{_paper(sets[-1])}"
    )
    title = f"{ensemble_title(sets[0])} of study {sets[0]['study']}, external scans, %"
    rows = [(metrics["set"], metrics) for metrics in sets]
    return make_table(title, "set", rows, cells, notice=sets[0].get("notice"), caption=caption)


def sensitivity_table(sets: Sequence[ExternalMetrics]) -> ResultTable:
    """Return a row for each true class of each set: counts by predicted class, and the sensitivity in percent."""
    rows = tuple(
        (
            f"{metrics['set']}, {name}",
            *(str(count) for count in counts),
            str(sum(scan["label"] == name for scan in metrics["missing"].values())),
            with_interval(metrics["intervals"]["wilson"]["sensitivity"][name]),
            with_interval(metrics["missing_as_wrong"]["sensitivity"][name]),
        )
        for metrics in sets
        for name, counts in zip(metrics["classes"], metrics["confusion_matrix"], strict=True)
    )
    columns = (
        "set, true class",
        *(f"predicted {name}" for name in sets[0]["classes"]),
        "refused",
        "sensitivity, %",
        "sensitivity, refused counted as wrong, %",
    )
    return ResultTable("External scans by class", columns, rows, sets[0].get("notice"), _NOTHING_FITTED)


def _calibration_table(calibrations: Mapping[str, ExternalCalibration], notice: str | None) -> ResultTable:
    rows = []
    for name, calibration in calibrations.items():
        rows.append((f"{name}, uncalibrated", calibration["before"]))
        rows.append((f"{name}, at temperature {calibration['temperature']:.2f}", calibration["after"]))
    first = next(iter(calibrations.values()))
    fitted = training_scans(first["learnt_on"], first["optimistic"])
    caption = f"The temperature is the study's, fitted on {fitted}. {CALIBRATION_TERMS}"
    title = "Calibration, external scans"
    return make_table(title, "set, probabilities", rows, CALIBRATION_CELLS, notice=notice, caption=caption)


def _abstention_table(calibrations: Mapping[str, ExternalCalibration], notice: str | None) -> ResultTable:
    rows = [
        (f"{name}, {label}", row)
        for name, calibration in calibrations.items()
        for label, row in calibration["undecided"]["classes"].items()
    ]
    decided = [
        f"{name}: {percentage(calibration['undecided']['share_answered'])} decided, of which "
        f"{percentage(calibration['undecided']['accuracy_among_answered'])} are correct"
        for name, calibration in calibrations.items()
    ]
    first = next(iter(calibrations.values()))
    caption = (
        f"Undecided below {first['undecided']['threshold']:.3f}, the study's threshold, fitted on "
        f"{training_scans(first['learnt_on'], first['optimistic'])}. {'; '.join(decided)}."
    )
    title = "Selective prediction, external scans, %"
    return make_table(title, "set, true class", rows, ABSTENTION_CELLS, notice=notice, caption=caption)


def _mixture(metrics: ExternalMetrics) -> str:
    """Return ``mixture_text`` as a sentence."""
    text = mixture_text(metrics).removeprefix("; ")
    return f" {text}." if text else ""


def mixture_text(metrics: ExternalMetrics | ExternalAccuracy) -> str:
    """Return a warning, as a part of a sentence, where scans and study are not both real, or not both phantoms."""
    phantoms, n, of_phantoms = metrics["n_phantom_scans"], metrics["n_predicted"], metrics["phantom_study"]
    if phantoms == (n if of_phantoms else 0):
        return ""
    study = "phantoms" if of_phantoms else "real scans"
    return f"; {phantoms} of the {n} scans are phantoms, the study is of {study}: these metrics have no meaning"


def _paper(metrics: ExternalMetrics) -> str:
    """Return the paper's own results where both come from the real cohort."""
    real = metrics["cohort"] == PAPER_COHORT and not metrics["phantom_study"] and metrics["n_phantom_scans"] == 0
    if not (real and is_paper_ensemble(metrics)):
        return ""
    (correct, n), (caps, n_caps) = (PAPER_COUNTS[name] for name in ("tests", "tests, CAP"))
    return (
        f" The paper's own on the SPGC tests 1 to 3: {correct} of {n} {interval_text(wilson(correct, n))}, CAP {caps} "
        f"of {n_caps} {interval_text(wilson(caps, n_caps))}."
    )


def paired_table(comparison: StudyComparison) -> ResultTable:
    """Return the metrics of two ensembles and the paired differences, in percent."""
    accuracy = comparison["accuracy"]
    test = accuracy["comparison"]
    note = f"McNemar p = {test['p']:.2g} ({test['only_first']} : {test['only_second']})"
    first, second = with_interval(accuracy["first"]), with_interval(accuracy["second"])
    rows = [("accuracy", first, second, difference_text(test["difference"], test), note)]
    if comparison["refused_as_wrong"] is not None:
        rows.append(("accuracy, refused counted as wrong", *_cells(comparison["refused_as_wrong"]), "Tango"))
    rows += [(f"sensitivity for {name}", *_cells(row), "Tango") for name, row in comparison["sensitivity"].items()]
    rows += [(METRIC_TITLES[name], *_cells(row), "bootstrap") for name, row in comparison["metrics"].items()]
    columns = ("metric", comparison["first"], comparison["second"], "difference", "note")
    caption = (
        "McNemar: exact, on the scans that only the first or only the second predicts correctly; its difference with "
        "Tango's interval. Sensitivities are not corrected for their number. Bootstrap: patients resampled for both at "
        f"once.{_refused_text(comparison['refused'], 'counted in the row that says so alone')}"
    )
    title = f"{comparison['first']} minus {comparison['second']}, {comparison['on']}, {comparison['n']} scans, %"
    return ResultTable(title, columns, tuple(rows), comparison.get("notice"), caption)


def peer_table(comparison: PeerComparison) -> ResultTable:
    """Return an ensemble and published systems on the same scans: accuracy, recalls and paired tests, in percent."""
    classes = comparison["classes"]

    def figures(intervals: Proportions) -> tuple[str, ...]:
        return tuple(map(with_interval, (intervals["accuracy"], *(intervals["sensitivity"][name] for name in classes))))

    rows = [(comparison["first"], *figures(comparison["intervals"]), NONE, NONE)]
    for name, peer in comparison["peers"].items():
        test = peer["comparison"]
        difference = difference_text(test["difference"], test)
        rows.append((name, *figures(peer["intervals"]), difference, f"{test['p_holm']:.2g}"))
    columns = ("system", "accuracy", *(f"recall {name}" for name in classes), "difference", "McNemar p (Holm)")
    scans = f"{comparison['on']}, {comparison['n']} scans"
    title = f"{comparison['first']} and the systems of {comparison['table']}, {scans}, %"
    caption = (
        "Difference: the first minus this system, with Tango's interval. A missing prediction counts as wrong."
        f"{_refused_text(comparison['refused'], 'counted as wrong')}"
    )
    return ResultTable(title, columns, tuple(rows), comparison.get("notice"), caption)


def _refused_text(refused: Mapping[str, int], fate: str) -> str:
    """Return how many scans the ensembles refused, and why; empty where none. ``fate``: what became of them here."""
    if not refused:
        return ""
    return f" Refused by predict.py, {fate}: {sum(refused.values())} scans ({_code_counts(refused)})."


def _cells(row: PairedMetric) -> tuple[str, str, str]:
    return (
        with_interval(row["first"]),
        with_interval(row["second"]),
        difference_text(row["difference"]["value"], row["difference"]),
    )
