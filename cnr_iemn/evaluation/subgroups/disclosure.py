"""Cells of shared tables of counts that nobody may be recognised by."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnr_iemn.data.demographics.group_table import LEAST_SCANS


def hidden_cells(counts: NDArray[np.int64], *, unknown: int | None = None) -> NDArray[np.bool_]:
    """Return which cells of a table must not be told where its row and column sums are, bool of the same shape.

    Those of 1 to LEAST_SCANS - 1 scans, and further ones from which sums would give them away. In the graph that has a
    vertex for each row and column and an edge for each hidden cell, the sums determine a cell if and only if its edge
    is a bridge (Gusfield, SIAM J. Computing 1988); so a cycle is closed through each bridge.

    Args:
        counts: int64 [rows, columns].
        unknown: Row of the scans without a value, which are no group; its cells are hidden only for the sake of others.
    """
    hidden = (counts > 0) & (counts < LEAST_SCANS)
    if unknown is not None:
        hidden[unknown] = False
    while (bridges := _bridges(hidden)).any():
        row, column = np.argwhere(bridges)[0]
        candidates = _cycle(counts, hidden, int(row), int(column))
        if candidates is None:  # a table of one row or column: nothing hides behind another
            break
        for cell in candidates:
            hidden[cell] = True
    return hidden


def _bridges(hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
    bridges = np.zeros_like(hidden)
    n_parts = _parts(hidden)
    for row, column in np.argwhere(hidden):
        without = hidden.copy()
        without[row, column] = False
        bridges[row, column] = _parts(without) > n_parts
    return bridges


def _parts(hidden: NDArray[np.bool_]) -> int:
    n_rows, n_columns = hidden.shape
    rows, columns = np.nonzero(hidden)
    size = n_rows + n_columns
    graph = coo_array((np.ones(len(rows)), (rows, columns + n_rows)), shape=(size, size))
    return int(connected_components(graph, directed=False, return_labels=False))


def _cycle(counts: NDArray[np.int64], hidden: NDArray[np.bool_], row: int, column: int) -> list[tuple[int, int]] | None:
    """Return the three further cells of a rectangle through a cell that hides the fewest scans beside."""
    n_rows, n_columns = counts.shape
    rectangles = [
        [(row, other_column), (other_row, column), (other_row, other_column)]
        for other_row in range(n_rows)
        for other_column in range(n_columns)
        if other_row != row and other_column != column
    ]

    def cost(cells: list[tuple[int, int]]) -> tuple[int, int]:
        # an empty cell hides nothing: a hidden 0 is taken only where there is no other way
        return sum(int(counts[cell] == 0) for cell in cells), sum(int(counts[c]) for c in cells if not hidden[c])

    return min(rectangles, key=cost, default=None)
