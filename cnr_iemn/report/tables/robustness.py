"""The table and the sentence of perturbed scans."""

from cnr_iemn.evaluation.robustness.robustness_metrics import Changes, PerturbedScans, Robustness
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import (
    NONE,
    Cells,
    ResultTable,
    by_class,
    difference_text,
    make_table,
    percent,
    percentage,
    with_interval,
)

_NAMED_SCANS = 20


def robustness_table(metrics: StudyMetrics, *, names_scans: bool = True) -> ResultTable:
    """Return what each perturbation does to the answers for the validation scans, in percent.

    Args:
        metrics: With the robustness.
        names_scans: Whether the caption names the scans that were left out, or counts them.
    """
    robustness = metrics["robustness"]
    assert robustness is not None
    cells: Cells[PerturbedScans] = {
        "scans": _scans,
        "other answer": lambda row: with_interval(row["changes"]["share"]),
        **by_class(metrics["classes"], "true {}", lambda row, name: _count(row["classes"][name])),
        "now wrong": lambda row: str(row["changes"]["to_wrong"]),
        "now correct": lambda row: str(row["changes"]["to_correct"]),
        "accuracy, change in points": _accuracy_change,
        "p, Holm": lambda row: NONE if row["comparison"] is None else f"{row['comparison']['p_holm']:.2g}",
        "probability moves by": lambda row: percent(row["probability"]),
    }
    title = "Answers for perturbed scans, %"
    rows = robustness["rows"].items()
    return make_table(
        title,
        "change",
        rows,
        cells,
        notice=metrics.get("notice"),
        caption=_caption(robustness, names_scans=names_scans),
    )


def _scans(row: PerturbedScans) -> str:
    refused = sum(row["refused"].values())
    return f"{row['changes']['n']}, {refused} refused" if refused else str(row["changes"]["n"])


def _count(changes: Changes) -> str:
    return f"{changes['to_wrong'] + changes['to_correct'] + changes['wrong_twice']} of {changes['n']}"


def _accuracy_change(row: PerturbedScans) -> str:
    comparison = row["comparison"]
    return NONE if comparison is None else difference_text(comparison["difference"], comparison, reverse=True)


def _caption(robustness: Robustness, *, names_scans: bool) -> str:
    refused = sorted({code for row in robustness["rows"].values() for code in row["refused"]})
    texts = [
        f"{robustness['n']} validation scans; read again unchanged, {percentage(robustness['agreement'])} of them get "
        "the study's own answer. Each change is compared with that reading, on the scans that are answered both times. "
        "Other answer: with Wilson's interval, and in scans by true class. Change of the accuracy: Tango's interval, "
        "exact McNemar p and Holm's correction over the changes. Probability of the first answer: mean absolute "
        "change, in points. Scans are treated as independent."
    ]
    if refused:
        texts.append(f"Refused: {', '.join(refused)}.")
    unread = robustness["unread"]
    if unread and not names_scans:
        texts.append(f"Left out, since they cannot be read as before: {len(unread)} of the scans.")
    elif unread:
        scans = [f"{scan_id} ({reason})" for scan_id, reason in unread.items()][:_NAMED_SCANS]
        more = f" and {len(unread) - len(scans)} more" if len(unread) > len(scans) else ""
        texts.append(f"Left out, since they cannot be read as before: {', '.join(scans)}{more}.")
    return " ".join(texts)


def robustness_sentence(metrics: StudyMetrics) -> str:
    """Return how many answers change, for the result; empty where it was not measured."""
    robustness = metrics["robustness"]
    if robustness is None:
        return ""
    answered = {name: row for name, row in robustness["rows"].items() if row["comparison"] is not None}
    if not answered:
        return "Robustness: every perturbed scan is refused."
    shares = {name: row["changes"]["share"]["value"] or 0.0 for name, row in answered.items()}
    name = max(shares, key=lambda key: shares[key])
    changes = "1 small change" if len(answered) == 1 else f"{len(answered)} small changes in turn"
    start = f"Robustness: {robustness['n']} validation scans were read again with {changes}. "
    n_refused = sum(sum(row["refused"].values()) for row in robustness["rows"].values())
    refused = f" {n_refused} readings were refused." if n_refused else ""
    if shares[name] == 0:
        return f"{start}No scan gets another answer.{refused}"
    return (
        f"{start}Most answers change with: {name}, {_count(answered[name]['changes'])} (accuracy "
        f"{_accuracy_change(answered[name])} points).{refused}"
    )
