"""What goes by the shortcuts: association of the answers with them, and answers to altered input, as tables."""

from collections.abc import Mapping
from typing import Any

from cnr_iemn.patients.tables import ResultTable

_NONE = "–"
_FORMS = {"rho": "+.2f", "p": ".2g"}


def use_table(metrics: Mapping[str, Any]) -> ResultTable:
    """Return whether the booster is surer of a class where the shortcuts look like it, within each class."""
    audit = metrics["audit"]
    rows = tuple(
        (name, str(each["n"]), *(_NONE if each[key] is None else f"{each[key]:{form}}" for key, form in _FORMS.items()))
        for name, each in audit["use"].items()
    )
    caption = (
        "Validation scans of one class at a time: Spearman's rho of the booster's margin for their class and the "
        "left-out score that the shortcuts alone give it; p by permutation within the class, two-sided, not corrected "
        "for their number. Exploratory. Near 0: no sign that the shortcuts are used; else they are, or the lungs of "
        "such scans differ too."
    )
    columns = ("true class", "scans", "rho", "p")
    return ResultTable("Do the answers go with the shortcuts?", columns, rows, metrics.get("notice"), caption)
