"""The analysis plan of a study beside what was done."""

from cnr_iemn.evaluation.clinical.analysis_plan import SETTINGS, TEXTS, PlanRecord, deviations, late_changes
from cnr_iemn.report.tables import NONE, ResultTable


def plan_table(record: PlanRecord) -> ResultTable:
    """Return each key of the last plan: what was planned, what was done, and whether they agree."""
    planned, settings = record["entries"][-1]["plan"], record["settings"]
    rows = [(key, planned.get(key, NONE), settings[key], _remark(record, key)) for key in SETTINGS]
    rows += [(key, planned[key], NONE, "for the reader to compare") for key in TEXTS if key in planned]
    return ResultTable(
        "Analysis plan and what was done",
        ("key", "planned", "done", "remark"),
        tuple(rows),
        caption=f"{plan_sentence(record)} The dates are of this machine: publish the hash to prove them. What is not "
        "in the plan is exploratory.",
    )


def _remark(record: PlanRecord, key: str) -> str:
    """Return whether a setting is as planned, what two spellings of it mean, and whether it was planned too late."""
    planned, changes = record["entries"][-1]["plan"], late_changes(record)
    late = f"; {changes[key] or 'nothing'} was planned before the scoring" if key in changes else ""
    if key not in planned:
        return f"not in the plan{late}"
    if key in deviations(record):
        return f"deviates{late}"
    same = planned[key] == record["settings"][key]
    meaning = "" if same else f": both mean {record.get('resolved', {}).get(key, planned[key])}"
    return f"as planned{meaning}{late}"


def plan_sentence(record: PlanRecord) -> str:
    """Return when the plan was registered, whether it was amended, and how far it was kept."""
    first, last, changes = record["entries"][0], record["entries"][-1], deviations(record)
    when = "after" if first["after_scoring"] else "before"
    text = (
        f"An analysis plan (SHA-256 {first['sha256'][:16]}) was registered on {first['registered'][:10]}, {when} the "
        "first scoring of the validation scans."
    )
    if first is not last:
        later = "after" if last["after_scoring"] else "before"
        text += (
            f" Amendments: {len(record['entries']) - 1}, the last on {last['registered'][:10]}, {later} the scoring "
            f"(SHA-256 {last['sha256'][:16]})."
        )
    late = list(late_changes(record))
    if late:
        text += f" Changed by a plan after the scoring: {', '.join(late)}."
    return f"{text} Deviations{' from the last plan' if late else ''}: {', '.join(changes) if changes else 'none'}."
