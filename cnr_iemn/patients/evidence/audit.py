"""Could the classes be told without looking at the lungs? An audit of what must not matter.

One classifier, fixed before any data: ridge regression of the classes on the standardised shortcuts and their squares,
in ten parts by patient, judged on the scans left out by the AUC of the class that is told best, against permuted
classes. Its left-out answers are linear in the classes, so that a permutation costs a matrix product. An alarm means
that a shortcut is there to be taken, not that the networks take it.
"""

from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from cnr_iemn.patients.intervals import rank_auc

Floats = NDArray[np.float64]
ALARM = 0.01
_PARTS = 10
_RIDGE = 10.0  # in units of a scan's weight: as if ten scans said that nothing tells


class Audit(TypedDict):
    """``auc``: of the class that the shortcuts tell best; ``null``: 5%, 50% and 95% for permuted classes; ``p`` of it.

    ``alone``: the AUC of each shortcut by itself, in the same way, to see which it is.
    """

    n: int
    auc: float
    p: float
    alarm: bool
    permutations: int
    null: list[float]
    alone: dict[str, float]


def audit_shortcuts(
    shortcuts: pd.DataFrame, labels: NDArray[np.int64], patients: list[str], *, permutations: int = 999, seed: int = 0
) -> Audit | None:
    """Return the audit; None where a single class is there, or no shortcut varies.

    ``shortcuts``: float, one row a scan, one column a shortcut; missing values count as the mean. ``labels``: class
    index of each scan. ``patients``: whose scan each is; classes are permuted over scans.
    """
    known = _telling(shortcuts)
    if known.empty or len(np.unique(labels)) < 2:
        return None
    values = known.to_numpy(dtype=np.float64)
    parts = _parts(patients, seed)
    left_out = _left_out(values, parts)
    rng = np.random.default_rng(seed)
    observed = _highest_auc(left_out, labels)
    null = np.array([_highest_auc(left_out, rng.permutation(labels)) for _ in range(permutations)])
    p = float((1 + np.sum(null >= observed)) / (permutations + 1))
    return {
        "n": len(labels),
        "auc": observed,
        "p": p,
        "alarm": p < ALARM,
        "permutations": permutations,
        "null": [float(value) for value in np.quantile(null, [0.05, 0.5, 0.95])],
        "alone": {
            str(name): _highest_auc(_left_out(column[:, None], parts), labels)
            for name, column in zip(known, values.T, strict=True)
        },
    }


def shortcut_scores(
    shortcuts: pd.DataFrame, labels: NDArray[np.int64], patients: list[str], n_classes: int, *, seed: int = 0
) -> Floats:
    """Return the left-out answer of the audit's classifier for each scan and class, float64 [scans, n_classes].

    Each is of one class against the rest, higher where the shortcuts look like it; the scan's own class has no part in
    it. The arguments are those of ``audit_shortcuts``, which must not have returned None for them.
    """
    left_out = _left_out(_telling(shortcuts).to_numpy(dtype=np.float64), _parts(patients, seed))
    true = labels[:, None] == np.arange(n_classes)
    return np.asarray(left_out @ (true - true.mean(axis=0)))


def _telling(shortcuts: pd.DataFrame) -> pd.DataFrame:
    """Return the shortcuts that vary, missing values as the mean."""
    known = shortcuts.dropna(axis="columns", how="all")
    known = known.fillna(known.mean())
    varies = np.ptp(known.to_numpy(dtype=np.float64), axis=0) > 0
    telling: pd.DataFrame = known[known.columns[varies]]
    return telling


def _parts(patients: list[str], seed: int) -> NDArray[np.int64]:
    """Return the part of each scan; a patient's scans are together, the classes play no role."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n = int(owner.max()) + 1
    part = np.random.default_rng(seed).permutation(n) % min(_PARTS, n)
    return np.asarray(part[owner])


def _left_out(values: Floats, parts: NDArray[np.int64]) -> Floats:
    """Return the matrix that makes each scan's answer from the classes of the other parts, float64 [scans, scans]."""
    matrix = np.zeros((len(values), len(values)))
    for part in np.unique(parts):
        rest, here = parts != part, parts == part
        mean, deviation = values[rest].mean(axis=0), values[rest].std(axis=0)
        scaled = (values - mean) / np.where(deviation > 0, deviation, 1)
        scaled = np.clip(scaled, -5, 5)  # one odd scan is not to rule the squares
        design = np.hstack([scaled, scaled**2])
        design -= design[rest].mean(axis=0)
        inner = design[rest].T @ design[rest] + _RIDGE * np.eye(design.shape[1])
        matrix[np.ix_(here, rest)] = design[here] @ np.linalg.solve(inner, design[rest].T)
    return matrix


def _highest_auc(left_out: Floats, labels: NDArray[np.int64]) -> float:
    """Return the AUC, one class against the rest, of the class whose left-out answers tell it best."""
    sides = (labels == label for label in np.unique(labels))
    return max(rank_auc(rankdata(left_out @ (true - true.mean())), true) for true in sides)
