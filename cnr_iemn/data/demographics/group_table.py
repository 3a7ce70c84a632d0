"""The groups of all scans of a study as one table, coarse enough to be shared."""

import math
from collections.abc import Collection, Iterable

import pandas as pd

from cnr_iemn.ct.io.folders import natural_key
from cnr_iemn.data.demographics.store_files import stored_demographics
from cnr_iemn.data.slice_store import SliceStore

LEAST_SCANS = 5
"""Scans of a group, and of its share in a class and a side of the split, that may be told."""
OTHER, ANY = "other", "any"
"""Rare values together; all values together, where telling two of them apart would show a rare one."""
TITLES = {
    "sex": "sex",
    "age": "age, years",
    "site": "site",
    "manufacturer": "manufacturer",
    "model_family": "scanner",
    "kernel": "kernel",
    "slice_thickness": "slice thickness",
    "tube_voltage": "tube voltage",
    "contrast": "contrast agent",
}
"""Of the variables, in the order of the tables; those that a manifest adds have their own names."""
_STORED = ("slice_thickness", "tube_voltage", "model_family", "kernel", "manufacturer")
_THIN_MM, _THICK_MM = 1.5, 3.0  # thin sections: Fleischner Society (Hansell et al., Radiology 2008)


def group_table(store: SliceStore, scan_ids: Iterable[str]) -> pd.DataFrame:
    """Return the groups of stored scans, one row a scan, index scan_id, one column a variable; None where not known.

    Slice thickness and tube voltage are known of every DICOM scan, the others where they were declared or asked for.
    Raises StoreError where the store lacks a scan or a file in it is damaged.
    """
    rows = {}
    for scan_id in scan_ids:
        acquisition = store.acquisition(scan_id)
        rows[scan_id] = {
            **stored_demographics(store, scan_id).values,
            "slice_thickness": _thickness_class(acquisition.slice_thickness_mm),
            "tube_voltage": None if math.isnan(acquisition.kvp) else f"{10 * round(acquisition.kvp / 10)} kV",
        }
    table = pd.DataFrame.from_dict(rows, orient="index", dtype="object").rename_axis("scan_id")
    table = table.where(table.notna(), None).dropna(axis="columns", how="all")
    order = [name for name in TITLES if name in table] + [name for name in table if name not in TITLES]
    return table[order]


def _thickness_class(thickness_mm: float) -> str | None:
    if math.isnan(thickness_mm):
        return None
    if thickness_mm <= _THIN_MM:
        return f"0 to {_THIN_MM} mm"
    return f"{_THIN_MM} to {_THICK_MM:g} mm" if thickness_mm <= _THICK_MM else f"more than {_THICK_MM:g} mm"


def coarse_table(table: pd.DataFrame, *, counted: Collection[str] | None = None) -> pd.DataFrame:
    """Return the table with each value in at least LEAST_SCANS scans: rare ones are merged.

    Bands of ages are merged with a neighbour. Rare values of the other variables become OTHER, with the rarest of the
    rest where they would still be too few. The columns stay.

    Args:
        table: Of ``group_table``, or a coarse one.
        counted: Scans that count, such as those for validation; None for all.
    """
    rows = table if counted is None else table.loc[list(counted)]
    coarse = {}
    for name in map(str, table):
        counts = {level: int((rows[name] == level).sum()) for level in levels_of(table[name])}
        merged = _coarse_ages(counts) if name == "age" else _coarse_values(counts)
        coarse[name] = table[name].map(merged).astype("object")
    return pd.DataFrame(coarse, index=table.index, columns=table.columns, dtype="object")


def levels_of(column: pd.Series) -> list[str]:
    """Return the values of a column in the order in which they are shown."""
    return sorted((str(value) for value in column.dropna().unique()), key=_place)


def _place(value: str) -> tuple[bool, list[tuple[int, int, str]]]:
    return value == OTHER, natural_key(value)


def _coarse_values(counts: dict[str, int]) -> dict[str, str]:
    """Return what each value is called."""
    order = sorted(counts, key=lambda value: counts[value])
    rare = [value for value in order if counts[value] < LEAST_SCANS]
    rest = order[len(rare) :]
    while rare and rest and sum(counts[value] for value in rare) < LEAST_SCANS:
        rare.append(rest.pop(0))
    return dict.fromkeys(rare, OTHER if rest else ANY) | {value: value for value in rest}


def _coarse_ages(counts: dict[str, int]) -> dict[str, str]:
    """Return what each band is called. ``counts``: in the order of the bands."""
    runs, sizes = [[band] for band in counts], list(counts.values())
    while len(runs) > 1 and min(sizes) < LEAST_SCANS:
        k = sizes.index(min(sizes))
        j = min((j for j in (k - 1, k + 1) if 0 <= j < len(runs)), key=lambda index: sizes[index])
        first = min(j, k)
        runs[first : first + 2] = [runs[first] + runs[first + 1]]
        sizes[first : first + 2] = [sizes[first] + sizes[first + 1]]
    whole = sum(sizes) < LEAST_SCANS
    return {band: ANY if whole else _joint_band(run) for run in runs for band in run}


def _joint_band(run: list[str]) -> str:
    low, last = run[0].replace("-", " ").split()[0], run[-1]
    if len(run) == 1:
        return last
    return f"{low}-{last.split('-')[1]}" if "-" in last else f"{low} and above"


def indicators(table: pd.DataFrame) -> pd.DataFrame:
    """Return a column for each value of the coarse variables, for the shortcut audit: 1, 0, NaN where not known.

    Left out is what the audit knows more finely: thickness, voltage, scanner and kernel.
    """
    columns: dict[str, pd.Series] = {}
    for name in map(str, table):
        if name not in _STORED:
            present = table[name].notna()
            for value in levels_of(table[name]):
                columns[f"{title_of(name).split(',')[0]} {value}"] = (table[name] == value).astype(float).where(present)
    return pd.DataFrame(columns, index=table.index)


def title_of(name: str) -> str:
    """Return what tables call a variable."""
    return TITLES.get(name, name)
