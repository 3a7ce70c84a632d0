"""What goes by the shortcuts: association of the answers with them, and answers to altered input, as tables."""

from collections.abc import Mapping
from typing import Any

from cnr_iemn.patients.evidence.cells import INTERVAL, NONE, percent
from cnr_iemn.patients.evidence.tables import ResultTable

_FORMS = {"rho": "+.2f", "p": ".2g"}


def use_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return whether the booster is surer of a class where the shortcuts look like it, within each class."""
    audit = metrics["audit"]
    rows = tuple(
        (name, str(each["n"]), *(NONE if each[key] is None else f"{each[key]:{form}}" for key, form in _FORMS.items()))
        for name, each in audit["use"].items()
    )
    caption = (
        "Validation scans of one class at a time: Spearman's rho of the booster's margin for their class and the "
        "left-out score that the shortcuts alone give it; p by permutation within the class, two-sided, not corrected "
        "for their number. Exploratory. Near 0 says little where scans are few; else the shortcuts are used, or the "
        "lungs of such scans differ too."
    )
    columns = ("true class", "scans", "rho", "p")
    return ResultTable("Do the answers go with the shortcuts?", columns, rows, metrics.get("notice"), caption)


def ablation_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return the answers for the validation scans with parts of the networks' input taken away, in percent."""
    found, classes = metrics["ablations"], metrics["classes"]
    rows = tuple(
        (
            name,
            percent(each["accuracy"]),
            *(percent(each["sensitivity"][label]) for label in classes),
            *_against(each["unaltered_against_it"]),
            percent(each["slices_changed"]),
        )
        for name, each in found["rows"].items()
    )
    caption = (
        f"{found['n']} validation scans, {found['networks']} networks, the booster as it is; unaltered, "
        f"{percent(found['agreement'])}% of the slices get the class that was saved. Exploratory. The networks have "
        "never seen such images: a fall may come from their strangeness. What does not fall was not needed."
    )
    columns = (
        "the networks' input",
        "accuracy",
        *(f"sensitivity {label}" for label in classes),
        "less unaltered",
        INTERVAL,
        "exact McNemar p, Holm",
        "slices with another class",
    )
    return ResultTable("What do the networks go by?, %", columns, rows, metrics.get("notice"), caption)


def _against(unaltered: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Return the difference to the unaltered answers, its interval and p; they are the first of the comparison."""
    if unaltered is None:
        return NONE, NONE, NONE
    difference, low, high = (-100 * unaltered[key] + 0.0 for key in ("difference", "high", "low"))
    return f"{difference:+.2f}", f"[{low:+.1f}, {high:+.1f}]", f"{unaltered['p_holm']:.2g}"
