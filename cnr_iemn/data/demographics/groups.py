"""Groups of patients and scanners: their types, and the words that a header or a manifest may use for them.

Ages are kept as bands of ten years, those above 89 as one: the limit of the HIPAA safe harbour (45 CFR 164.514(b)(2)).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from cnr_iemn.schemas import SCHEMA_VERSION

Sex = Literal["female", "male", "other"]
AgeBand = Literal["0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90 and above"]
KernelClass = Literal["smooth", "medium", "sharp", "unlisted"]
Contrast = Literal["yes", "no"]
AGE_BANDS: tuple[str, ...] = get_args(AgeBand)
GROUP_PREFIX = "group_"
"""Of a manifest's columns whose groups a study is to be measured in."""

_SEXES: Mapping[str, Sex] = {
    **dict.fromkeys(("f", "female", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    **dict.fromkeys(("o", "other"), "other"),
}
_MAX_AGE = 150
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5, value representation AS


@dataclass(frozen=True)
class HeaderGroups:
    """What a scan's DICOM headers say; None where they do not. No field holds a text of the file.

    ``manufacturer``, ``model_family``: of ``scanner_names``. ``contrast``: None where no agent is stated, which proves
    nothing.
    """

    sex: Sex | None = None
    age: AgeBand | None = None
    manufacturer: str | None = None
    model_family: str | None = None
    kernel: KernelClass | None = None
    contrast: Contrast | None = None


@dataclass(frozen=True)
class DeclaredGroups:
    """What a manifest says of a scan, None where it does not. ``groups``: by name of the column, without its prefix."""

    sex: Sex | None = None
    age: AgeBand | None = None
    site: str | None = None
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the manifest says nothing."""
        return self == NOTHING_DECLARED


NOTHING_DECLARED = DeclaredGroups()


@dataclass(frozen=True)
class Demographics:
    """demographics.json of a scan in the store. ``header``: None where it was not asked for."""

    declared: DeclaredGroups = NOTHING_DECLARED
    header: HeaderGroups | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def values(self) -> dict[str, str]:
        """What is known by name of the variable; the manifest goes before the header."""
        header = {} if self.header is None else asdict(self.header)
        declared = {"sex": self.declared.sex, "age": self.declared.age, "site": self.declared.site}
        values = header | {name: value for name, value in declared.items() if value is not None} | self.declared.groups
        return {name: value for name, value in values.items() if value is not None}

    @property
    def contradictions(self) -> tuple[str, ...]:
        """The variables of which manifest and header say different things."""
        return tuple(
            name
            for name in ("sex", "age")
            if None not in (first := getattr(self.declared, name), second := getattr(self.header, name, None))
            and first != second
        )


def sex_of(text: str) -> Sex | None:
    """Return the sex that a header or a manifest names (F, M, O or the words), None for any other text."""
    return _SEXES.get(text.strip().lower())


def age_band(years: float) -> AgeBand | None:
    """Return the band of an age in years, None for one that nobody has."""
    if not 0 <= years <= _MAX_AGE:
        return None
    band: AgeBand = AGE_BANDS[min(int(years // 10), len(AGE_BANDS) - 1)]  # type: ignore[assignment]
    return band


def age_string_band(text: str) -> AgeBand | None:
    """Return the band of a DICOM age string such as 063Y, None for any other text."""
    match = _AGE.fullmatch(text.strip())
    return None if match is None else age_band(int(match[1]) * _YEARS[match[2]])
