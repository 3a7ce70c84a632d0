"""The columns of a manifest that say who was scanned and where: sex, age, site and any that begins with group_."""

from collections.abc import Mapping

from cnr_iemn.data.csv_io import Problems
from cnr_iemn.data.demographics.groups import AGE_BANDS, GROUP_PREFIX, AgeBand, DeclaredGroups, age_band, sex_of

COLUMNS = {"sex", "age", "site", f"{GROUP_PREFIX}*"}
"""As ``read_rows`` takes them."""
VARIABLES = frozenset(
    (
        *("sex", "age", "site", "manufacturer", "model_family", "kernel", "contrast"),
        *("slice_thickness", "tube_voltage"),
    )
)
"""Names that a group_ column may not take."""
_OLDEST = frozenset(("90+", ">89", "> 89", AGE_BANDS[-1]))


def declared_groups(line: int, row: Mapping[str, str], problems: Problems) -> DeclaredGroups:
    """Return what a row says of its scan; each value that makes no sense is added to the problems.

    Args:
        line: Of the row.
        row: Values by column; an empty one is not known.
        problems: Of the file.
    """
    sex, age = sex_of(row.get("sex", "")), _age(row.get("age", ""))
    if row.get("sex") and sex is None:
        problems.add(line, f"sex {row['sex']!r} is none of F, M, O")
    if row.get("age") and age is None:
        problems.add(line, f"age {row['age']!r} is no number of years, nor 90+")
    groups = {}
    for column, value in row.items():
        name = column.removeprefix(GROUP_PREFIX)
        if name == column or not value:
            continue
        if not name or name in VARIABLES:
            problems.add(line, f"column {column!r} needs a name of its own after {GROUP_PREFIX}")
        groups[name] = value
    return DeclaredGroups(sex, age, row.get("site") or None, groups)


def _age(text: str) -> AgeBand | None:
    if text in _OLDEST:
        return age_band(90)
    try:
        return age_band(float(text))
    except ValueError:
        return None
