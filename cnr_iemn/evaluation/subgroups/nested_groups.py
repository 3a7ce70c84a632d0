"""Variables whose groups lie within those of another one: differences of their tables can tell a small number."""

from collections.abc import Mapping
from itertools import permutations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.data.demographics.group_table import ANY, LEAST_SCANS, OTHER, levels_of
from cnr_iemn.evaluation.subgroups.disclosure import hidden_cells
from cnr_iemn.schemas import TRAINING, VALIDATION

_UNKNOWN = ""
"""Of a scan without a value; no value is empty."""
_RESIDUAL = 1e-9


def without_telling_values(groups: pd.DataFrame, strata: Mapping[tuple[str, str], NDArray[np.bool_]]) -> pd.DataFrame:
    """Return the groups, with ANY as the value of a variable that tells small numbers beside another one.

    Wards lie within a hospital, and models of a scanner are of one manufacturer: a reader who knows that takes the
    named wards from their hospital and has the numbers of the others, which the table of wards has merged. Where one
    of these numbers is below LEAST_SCANS, the values of the finer variable are no longer told apart. Two variables
    are compared at a time.

    Args:
        groups: Of ``coarse_table``, a row for each scan.
        strata: Rows of each class and side of the split, bool [scans].
    """
    coarse = groups.copy()
    for fine, wide in permutations(map(str, groups), 2):
        if (coarse[fine] == ANY).any() or (coarse[wide] == ANY).any() or not _lies_within(coarse[fine], coarse[wide]):
            continue
        if any(_tells(coarse[fine], coarse[wide], strata, side) for side in (TRAINING, VALIDATION)):
            coarse[fine] = coarse[fine].where(coarse[fine].isna(), ANY)
    return coarse


def _lies_within(fine: pd.Series, wide: pd.Series) -> bool:
    """Return whether each named value of one variable has a single value of the other."""
    rows = fine.notna() & wide.notna() & (fine != OTHER)
    parents = wide[rows].groupby(fine[rows].astype(str)).nunique()
    return len(parents) > 0 and bool((parents == 1).all())


def _tells(fine: pd.Series, wide: pd.Series, strata: Mapping[tuple[str, str], NDArray[np.bool_]], side: str) -> bool:
    """Return whether the two tables of a side of the split determine a small number of scans with values of both."""
    inside = [rows for (_, split), rows in strata.items() if split == side]
    if not inside:
        return False
    values = [[*levels_of(column), _UNKNOWN] for column in (fine, wide)]
    columns = [column.fillna(_UNKNOWN).to_numpy(dtype=str) for column in (fine, wide)]
    counts = np.array(
        [
            [[int((rows & (columns[0] == f) & (columns[1] == w)).sum()) for rows in inside] for w in values[1]]
            for f in values[0]
        ]
    )  # [fine, wide, strata]
    impossible = np.zeros(counts.shape, dtype=bool)
    named_levels = [k for k, value in enumerate(values[0]) if value not in (OTHER, _UNKNOWN)]
    impossible[named_levels] = (counts[named_levels].sum(axis=2) == 0)[:, :, None]
    sums = _visible_sums(counts)
    nothing = sums[sums @ counts.ravel() == 0].any(axis=0)  # a sum of 0 tells each of its cells
    impossible |= nothing.reshape(counts.shape)
    sums = sums[:, ~impossible.ravel()]
    basis = np.linalg.pinv(sums) @ sums  # projects on what linear combinations of the visible numbers tell
    for f, w in product(range(counts.shape[0] - 1), range(counts.shape[1] - 1)):
        for cells in (*([k] for k in range(counts.shape[2])), range(counts.shape[2])):
            pattern = np.zeros(counts.shape)
            pattern[f, w, list(cells)] = 1
            pattern = pattern[~impossible]
            small = 0 < counts[f, w, list(cells)].sum() < LEAST_SCANS
            if small and np.abs(pattern @ basis - pattern).max() < _RESIDUAL:
                return True
    return False


def _visible_sums(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return which cells each number that the two tables show is a sum of, [numbers, cells].

    The sums of rows count as shown, since the subgroups have those of the validation scans, and the standardised
    differences between the sides of the split tell those of the training scans.
    """
    patterns = []
    for axis in (1, 0):
        table = counts.sum(axis=axis)
        hidden = hidden_cells(table, unknown=-1)
        for row in range(table.shape[0]):
            for cells in (*([k] for k in range(table.shape[1]) if not hidden[row, k]), range(table.shape[1])):
                pattern = np.zeros(counts.shape)
                index = (row, slice(None)) if axis == 1 else (slice(None), row)
                pattern[(*index, list(cells))] = 1
                patterns.append(pattern.ravel())
    for k in range(counts.shape[2]):
        pattern = np.zeros(counts.shape)
        pattern[:, :, k] = 1
        patterns.append(pattern.ravel())
    return np.array(patterns)
