"""Shortcut audit: can the classes be predicted without the lungs, and do the predictions follow such shortcuts?

One classifier, fixed before any data: ridge regression of the classes on the standardised shortcuts and their squares,
in ten folds by patient, measured by the AUC of the class that it predicts best, against permuted classes. Its
cross-validated scores are linear in the classes, so that a permutation costs a matrix product. An alarm means that a
shortcut exists, not that the networks use it. Within a class, shortcuts cannot explain how confident stage 2 is unless
the networks use them or something in the lungs that goes with them: an association is a reason to look, not a proof.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from typing_extensions import TypedDict

from cnr_iemn.schemas import VALIDATION, probability_columns
from cnr_iemn.statistics.confidence_intervals import rank_auc

Floats = NDArray[np.float64]
ALARM = 0.01
_FOLDS = 10
_RIDGE = 10.0  # in units of a scan's weight: like ten scans without any effect
_MIN_SCANS = 4  # whose ranks have 24 orders
_MIN_PROBABILITY = 1e-12  # so that its logarithm is finite


class ShortcutPrediction(TypedDict):
    """How well the shortcuts predict the classes.

    ``auc``: of the class that they predict best; ``null``: 5%, 50% and 95% of it for permuted classes, with the ``p``.
    ``by_shortcut``: the AUC of each shortcut alone, of two digits: from more, the counts of a group could be found.
    """

    n: int
    auc: float
    p: float
    alarm: bool
    permutations: int
    null: list[float]
    by_shortcut: dict[str, float]


class Association(TypedDict):
    """Spearman's rho of margin and shortcut score within a class of ``n`` scans, with its two-sided permutation ``p``.

    Both are None where the class has too few scans, or one of the two does not vary.
    """

    n: int
    rho: float | None
    p: float | None


class ShortcutAudit(ShortcutPrediction):
    """The prediction, and its ``association`` with the predictions of stage 2, by class."""

    association: dict[str, Association]


def audit_shortcuts(
    shortcuts: pd.DataFrame, labels: NDArray[np.int64], patients: list[str], *, permutations: int = 999, seed: int = 0
) -> ShortcutPrediction | None:
    """Return how well shortcuts predict the classes; None where a single class occurs, or no shortcut varies.

    Args:
        shortcuts: float, one row a scan, one column a shortcut; missing values count as the mean.
        labels: Class index of each scan; permuted over scans.
        patients: Patient of each scan.
        permutations: For the p value.
        seed: Of folds and permutations.
    """
    table = _varying(shortcuts)
    if table.empty or len(np.unique(labels)) < 2:
        return None
    values, folds = table.to_numpy(dtype=np.float64), _folds(patients, seed)
    hat_matrix = _hat_matrix(values, folds)
    rng = np.random.default_rng(seed)
    observed = _highest_auc(hat_matrix, labels)
    null = np.array([_highest_auc(hat_matrix, rng.permutation(labels)) for _ in range(permutations)])
    p = float((1 + np.sum(null >= observed)) / (permutations + 1))
    return {
        "n": len(labels),
        "auc": observed,
        "p": p,
        "alarm": p < ALARM,
        "permutations": permutations,
        "null": [float(value) for value in np.quantile(null, [0.05, 0.5, 0.95])],
        "by_shortcut": {
            str(name): round(_highest_auc(_hat_matrix(column[:, None], folds), labels), 2)
            for name, column in zip(table, values.T, strict=True)
        },
    }


def shortcut_audit(
    patients: pd.DataFrame, shortcuts: pd.DataFrame, classes: tuple[str, ...], *, seed: int = 0
) -> ShortcutAudit | None:
    """Return the audit of all scans, and the association with the predictions of the validation scans alone.

    ``patients``: one row a scan: patient, split, label, probabilities. ``shortcuts``: of these scans and perhaps
    others; both have the index scan_id. None where there is nothing to audit.
    """
    labels = np.array([classes.index(label) for label in patients["label"]], dtype=np.int64)
    table, owners = shortcuts.loc[patients.index], patients["patient_id"].tolist()
    audit = audit_shortcuts(table, labels, owners, seed=seed)
    if audit is None:
        return None
    held_out = (patients["split"] == VALIDATION).to_numpy(dtype=bool)  # stage 2 was fitted on the others
    scores = shortcut_scores(table, labels, owners, len(classes), seed=seed)[held_out]
    margins = decision_margins(patients.loc[held_out, probability_columns(classes)].to_numpy(dtype=np.float64))
    rng = np.random.default_rng(seed)
    rows = {name: labels[held_out] == k for k, name in enumerate(classes)}
    associations = {
        name: rank_association(margins[of_class, k], scores[of_class, k], rng)
        for k, (name, of_class) in enumerate(rows.items())
    }
    return {**audit, "association": associations}


def shortcut_scores(
    shortcuts: pd.DataFrame, labels: NDArray[np.int64], patients: list[str], n_classes: int, *, seed: int = 0
) -> Floats:
    """Return the cross-validated score of each scan and class against the rest, float64 [scans, n_classes].

    Higher where the shortcuts look like the class; a scan's own class does not enter. The arguments are those of
    ``audit_shortcuts``, which must not have returned None for them.
    """
    hat_matrix = _hat_matrix(_varying(shortcuts).to_numpy(dtype=np.float64), _folds(patients, seed))
    true = labels[:, None] == np.arange(n_classes)
    return np.asarray(hat_matrix @ (true - true.mean(axis=0)))


def decision_margins(probabilities: Floats) -> Floats:
    """Return by how much each class leads the best other one, in log-probability, float64 [scans, classes]."""
    logs = np.log(np.maximum(probabilities, _MIN_PROBABILITY))
    rivals = [np.delete(logs, k, axis=1).max(axis=1) for k in range(logs.shape[1])]
    return np.asarray(logs - np.stack(rivals, axis=1))


def rank_association(
    margins: Floats, scores: Floats, rng: np.random.Generator, *, permutations: int = 9999
) -> Association:
    """Return Spearman's rho of two values of the same scans, float64 [scans], with its permutation p.

    p = (1 + #{|permuted| >= |observed|}) / (permutations + 1).
    """
    n = len(margins)
    if n < _MIN_SCANS or np.ptp(margins) == 0 or np.ptp(scores) == 0:
        return {"n": n, "rho": None, "p": None}
    first, second = _standard_ranks(margins), _standard_ranks(scores)
    rho = float(first @ second)
    null = rng.permuted(np.broadcast_to(first, (permutations, n)), axis=1) @ second
    extreme = int(np.sum(np.abs(null) >= abs(rho) - 1e-12))  # equal ranks can sum in another order
    return {"n": n, "rho": rho, "p": (1 + extreme) / (permutations + 1)}


def _varying(shortcuts: pd.DataFrame) -> pd.DataFrame:
    """Return the shortcuts that vary, missing values as the mean."""
    complete = shortcuts.dropna(axis="columns", how="all")
    complete = complete.fillna(complete.mean())
    columns = np.ptp(complete.to_numpy(dtype=np.float64), axis=0) > 0
    varying: pd.DataFrame = complete[complete.columns[columns]]
    return varying


def _folds(patients: list[str], seed: int) -> NDArray[np.int64]:
    """Return the fold of each scan; a patient's scans are in one fold, and the classes play no role."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n = int(owner.max()) + 1
    fold = np.random.default_rng(seed).permutation(n) % min(_FOLDS, n)
    return np.asarray(fold[owner])


def _hat_matrix(values: Floats, folds: NDArray[np.int64]) -> Floats:
    """Return the matrix that maps the classes to the cross-validated scores, float64 [scans, scans]."""
    matrix = np.zeros((len(values), len(values)))
    for fold in np.unique(folds):
        rest, test = folds != fold, folds == fold
        mean, deviation = values[rest].mean(axis=0), values[rest].std(axis=0)
        scaled = (values - mean) / np.where(deviation > 0, deviation, 1)
        scaled = np.clip(scaled, -5, 5)  # so that no outlier dominates the squares
        design = np.hstack([scaled, scaled**2])
        design -= design[rest].mean(axis=0)
        inner = design[rest].T @ design[rest] + _RIDGE * np.eye(design.shape[1])
        matrix[np.ix_(test, rest)] = design[test] @ np.linalg.solve(inner, design[rest].T)
    return matrix


def _highest_auc(hat_matrix: Floats, labels: NDArray[np.int64]) -> float:
    """Return the AUC, one class against the rest, of the class that the scores predict best."""
    sides = (labels == label for label in np.unique(labels))
    return max(rank_auc(rankdata(hat_matrix @ (true - true.mean())), true) for true in sides)


def _standard_ranks(values: Floats) -> Floats:
    """Return the ranks, ties at their mean, with mean 0 and norm 1: their dot product is Spearman's rho."""
    ranks = rankdata(values) - (len(values) + 1) / 2
    return np.asarray(ranks / np.linalg.norm(ranks))
