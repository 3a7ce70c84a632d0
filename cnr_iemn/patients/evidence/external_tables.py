"""What an ensemble is worth on scans from elsewhere, from metrics.json of each set."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnr_iemn.patients.evidence.cells import interval_text, percent, with_interval
from cnr_iemn.patients.evidence.tables import ResultTable, ensemble_title, is_paper_ensemble
from cnr_iemn.patients.intervals import RESAMPLES, wilson
from cnr_iemn.registry import PAPER_COHORT, PAPER_COUNTS

_NOTHING_FITTED = "Nothing was fitted on these scans."


def external_tables(sets: Mapping[str, Mapping[str, Any]]) -> tuple[ResultTable, ...]:
    """Return the tables of all sets; calibration and undecided where the ensemble has a temperature."""
    found = list(sets.values())
    tables = [accuracy_table(found), sensitivity_table(found)]
    if found[0]["calibration"] is not None:
        tables += [external_calibration_table(found), external_undecided_table(found)]
    return tuple(tables)


def accuracy_table(sets: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return the figures of each set, in percent with their intervals."""
    rows = []
    for each in sets:
        bootstrap, missing = each["intervals"]["patient_bootstrap"], each["missing_as_wrong"]["accuracy"]
        rows.append(
            (
                each["set"],
                f"{each['n_answered']} of {each['n_labelled']}",
                with_interval(each["intervals"]["wilson"]["accuracy"]),
                with_interval(missing),
                *(with_interval(bootstrap[name]) for name in ("balanced_accuracy", "macro_f1", "macro_auc")),
            )
        )
    columns = (
        "set",
        "scans answered",
        "accuracy, answered",
        "accuracy, not answered = wrong",
        "balanced accuracy",
        "macro F1",
        "macro AUC",
    )
    caption = (
        f"{_NOTHING_FITTED} Accuracy: Wilson's interval; the others: {RESAMPLES} resamples of patients within their "
        f"class, the models as they are; means over the classes that occur.{_mixture(sets[-1])}{_paper(sets[-1])}"
    )
    title = f"{ensemble_title(sets[0])} of study {sets[0]['study']}, external scans, %"
    return ResultTable(title, columns, tuple(rows), sets[0].get("notice"), caption)


def sensitivity_table(sets: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return a row for each true class of each set: counts by predicted class, and the sensitivity in percent."""
    rows = tuple(
        (
            f"{each['set']}, {name}",
            *(str(count) for count in counts),
            str(sum(scan["label"] == name for scan in each["not_answered"].values())),
            with_interval(each["intervals"]["wilson"]["sensitivity"][name]),
            with_interval(each["missing_as_wrong"]["sensitivity"][name]),
        )
        for each in sets
        for name, counts in zip(each["classes"], each["confusion_matrix"], strict=True)
    )
    columns = (
        "set, true class",
        *(f"predicted {name}" for name in sets[0]["classes"]),
        "not answered",
        "sensitivity, answered, %",
        "sensitivity, not answered = missed, %",
    )
    return ResultTable("External scans by class", columns, rows, sets[0].get("notice"), _NOTHING_FITTED)


def external_calibration_table(sets: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return how well the probabilities fit each set, before and after the study's temperature."""
    rows = tuple(
        (
            f"{each['set']}, {name}",
            f"{found['brier']:.3f}",
            f"{found['log_loss']:.3f}",
            f"{found['ece']:.3f}",
            f"{found['ece_null'][0]:.3f} to {found['ece_null'][2]:.3f}",
        )
        for each in sets
        for name, found in (
            ("as the booster gives them", each["calibration"]["before"]),
            (f"at temperature {each['calibration']['temperature']:.2f}", each["calibration"]["after"]),
        )
    )
    caption = f"The temperature is the study's, learnt on {sets[0]['calibration']['learnt_on']} of its training scans."
    columns = ("set, probabilities", "Brier", "log-loss", "ECE", "ECE if perfect, 5 to 95%")
    return ResultTable("Calibration, external scans answered", columns, rows, sets[0].get("notice"), caption)


def external_undecided_table(sets: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Return what the study's threshold leaves undecided in each set, by class, in percent."""
    rows = tuple(
        (
            f"{each['set']}, {name}",
            str(found["n"]),
            percent(found["undecided"]),
            percent(found["sensitivity_among_answered"]),
            percent(found["sensitivity_of_all"]),
        )
        for each in sets
        for name, found in each["calibration"]["undecided"]["classes"].items()
    )
    threshold = sets[0]["calibration"]["undecided"]["threshold"]
    decided = "; ".join(
        f"{each['set']} {percent(found['share_answered'])}% decided, {percent(found['accuracy_among_answered'])}% right"
        for each in sets
        for found in (each["calibration"]["undecided"],)
    )
    columns = ("set, true class", "scans", "undecided", "sensitivity, decided", "sensitivity, undecided = missed")
    caption = f"Undecided below {threshold:.3f}, the study's threshold. {decided}."
    return ResultTable("Undecided, external scans answered, %", columns, rows, sets[0].get("notice"), caption)


def _mixture(metrics: Mapping[str, Any]) -> str:
    """Say where scans and study are not both real, or not both phantoms. ``metrics``: of all sets."""
    phantoms, n, of_phantoms = metrics["n_phantom_scans"], metrics["n_answered"], metrics["phantom_study"]
    if phantoms == (n if of_phantoms else 0):
        return ""
    study = "phantoms" if of_phantoms else "real scans"
    return f" {phantoms} of the {n} scans are phantoms, the study is of {study}: the figures mean nothing."


def _paper(metrics: Mapping[str, Any]) -> str:
    """Return the paper's own figures where both come from the real set."""
    real = metrics["cohort"] == PAPER_COHORT and not metrics["phantom_study"] and metrics["n_phantom_scans"] == 0
    if not (real and is_paper_ensemble(metrics)):
        return ""
    counts = (PAPER_COUNTS[name] for name in ("tests", "tests, CAP"))
    (right, n), (caps, n_caps) = counts
    return (
        f" The paper's own on the SPGC tests 1 to 3: {right} of {n} {interval_text(wilson(right, n))}, CAP {caps} of "
        f"{n_caps} {interval_text(wilson(caps, n_caps))}."
    )
