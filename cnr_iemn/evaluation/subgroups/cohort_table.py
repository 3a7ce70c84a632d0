"""Table 1 of a paper: the cohort by class and side of the split, with missing values and standardised differences."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.data.demographics.group_table import LEAST_SCANS, levels_of
from cnr_iemn.evaluation.subgroups.disclosure import hidden_cells
from cnr_iemn.schemas import TRAINING, VALIDATION

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Rows = NDArray[np.bool_]
NUMBERS = {"slices": "slices", "step, mm": "slice distance, mm", "lung litres": "lung volume, litres"}
"""Shortcut features that the table shows, and what it calls them."""
_SINGULAR = 1e-9


class Stratum(TypedDict):
    """The scans of one class on one side of the split."""

    label: str
    split: str
    n: int


class Differences(TypedDict):
    """Absolute standardised differences; None where one side has fewer than LEAST_SCANS scans, or nothing varies.

    ``split``: of training and validation scans. ``classes``: the largest of two classes, of groups those without a
    hidden number alone, which it would tell.
    """

    split: float | None
    classes: float | None


class CohortGroups(TypedDict):
    """Scans of each group and with a missing value, by stratum; None where hidden (``disclosure``)."""

    counts: dict[str, list[int | None]]
    missing: list[int | None]
    differences: Differences


class CohortNumbers(TypedDict):
    """25%, 50% and 75% of a number by stratum; None where fewer than LEAST_SCANS scans have one."""

    quartiles: list[list[float] | None]
    missing: list[int]
    differences: Differences


class CohortTable(TypedDict):
    """The strata in their order, and the variables by name."""

    strata: list[Stratum]
    numbers: dict[str, CohortNumbers]
    groups: dict[str, CohortGroups]


def cohort_table(
    patients: pd.DataFrame, groups: pd.DataFrame, numbers: pd.DataFrame, classes: Sequence[str]
) -> CohortTable:
    """Return Table 1.

    Args:
        patients: One row a scan, index scan_id: split and label.
        groups: Of ``coarse_table`` by the validation scans.
        numbers: Shortcut features, NaN where not known.
        classes: In their order.
    """
    labels, split = (patients[name].to_numpy(dtype=str) for name in ("label", "split"))
    cells = strata_of(patients, classes)
    pairs = _Pairs((split == TRAINING, split == VALIDATION), {label: labels == label for label in classes})
    strata, table, values = list(cells.values()), groups.reindex(patients.index), numbers.reindex(patients.index)
    names = [name for name in NUMBERS if name in values and values[name].notna().any()]
    return {
        "strata": [{"label": label, "split": side, "n": int(rows.sum())} for (label, side), rows in cells.items()],
        "numbers": {name: _numbers(values[name].to_numpy(dtype=np.float64), strata, pairs) for name in names},
        "groups": {str(name): _groups(table[name], cells, pairs) for name in table if table[name].notna().any()},
    }


def strata_of(patients: pd.DataFrame, classes: Sequence[str]) -> dict[tuple[str, str], Rows]:
    """Return the rows of each class and side of the split that has scans, bool [scans] each."""
    labels, split = (patients[name].to_numpy(dtype=str) for name in ("label", "split"))
    cells = {(label, side): (labels == label) & (split == side) for label in classes for side in (TRAINING, VALIDATION)}
    return {stratum: rows for stratum, rows in cells.items() if rows.any()}


@dataclass(frozen=True)
class _Pairs:
    """Rows that are compared, bool [scans] each: the sides of the split, and every two of the ``classes`` by name."""

    split: tuple[Rows, Rows]
    classes: Mapping[str, Rows]

    def differences(
        self, difference: Callable[[Rows, Rows], float | None], *, without: Collection[str] = ()
    ) -> Differences:
        """Return the difference between the sides, and the largest between two classes; some classes left out."""
        classes = [rows for label, rows in self.classes.items() if label not in without]
        values = [value for pair in combinations(classes, 2) if (value := difference(*pair)) is not None]
        return {"split": difference(*self.split), "classes": max(values, default=None)}


def _numbers(values: Floats, strata: Sequence[Rows], pairs: _Pairs) -> CohortNumbers:
    present = ~np.isnan(values)

    def quartiles(rows: Rows) -> list[float] | None:
        inside = values[rows & present]
        return np.quantile(inside, [0.25, 0.5, 0.75]).tolist() if len(inside) >= LEAST_SCANS else None

    def difference(first: Rows, second: Rows) -> float | None:
        return mean_difference(values[first & present], values[second & present])

    return {
        "quartiles": [quartiles(rows) for rows in strata],
        "missing": [int((rows & ~present).sum()) for rows in strata],
        "differences": pairs.differences(difference),
    }


def _groups(column: pd.Series, strata: Mapping[tuple[str, str], Rows], pairs: _Pairs) -> CohortGroups:
    levels = levels_of(column)
    inside = np.stack([(column == level).to_numpy(dtype=bool) for level in levels] + [column.isna().to_numpy(bool)])
    counts = np.array([[int((row & rows).sum()) for rows in strata.values()] for row in inside], dtype=np.int64)
    hidden = np.zeros(counts.shape, dtype=bool)
    for side in (TRAINING, VALIDATION):  # each alone, since the subgroups tell the sums of the validation scans
        columns = [k for k, (_, split) in enumerate(strata) if split == side]
        hidden[:, columns] = hidden_cells(counts[:, columns], unknown=-1)
    cells = [
        [None if hide else int(n) for n, hide in zip(*row, strict=True)] for row in zip(counts, hidden, strict=True)
    ]

    def difference(first: Rows, second: Rows) -> float | None:
        value = share_difference(*((inside[:-1] & rows).sum(axis=1) for rows in (first, second)))
        return None if value is None else round(value, 2)  # from more digits, hidden numbers could be found

    # the difference of two classes follows from their numbers, and the other way round
    hiding = {label for (label, _), column in zip(strata, hidden.T, strict=True) if column.any()}
    return {
        "counts": dict(zip(levels, cells, strict=False)),
        "missing": cells[-1],
        "differences": pairs.differences(difference, without=hiding),
    }


def mean_difference(first: Floats, second: Floats) -> float | None:
    """Return the absolute difference of two means in units of the standard deviation, pooled with equal weights.

    Source: Austin, Statistics in Medicine 2009. None where a side has fewer than LEAST_SCANS values or none varies.
    """
    if min(len(first), len(second)) < LEAST_SCANS:
        return None
    spread = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float(abs(first.mean() - second.mean()) / spread) if spread > 0 else None


def share_difference(first: Counts, second: Counts) -> float | None:
    """Return the standardised difference of the shares of groups: Mahalanobis' distance of two multinomials.

    Source: Yang and Dalton, SAS Global Forum 2012, paper 335.

    Args:
        first, second: Scans of each group on either side, int64 [groups].

    Returns:
        The distance; None where a side has fewer than LEAST_SCANS scans, or a difference lies where nothing varies.
    """
    if min(first.sum(), second.sum()) < LEAST_SCANS:
        return None
    shares = [counts / counts.sum() for counts in (first, second)]
    covariance = sum(np.diag(share) - np.outer(share, share) for share in shares) / 2
    difference = shares[0] - shares[1]
    inverse = np.linalg.pinv(covariance, rcond=_SINGULAR, hermitian=True)
    if np.abs(difference - covariance @ (inverse @ difference)).max() > _SINGULAR:
        return None
    return float(np.sqrt(max(difference @ inverse @ difference, 0.0)))
