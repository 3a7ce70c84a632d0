"""Do the answers go with the shortcuts? An alarm of the audit says that a shortcut is there, not that it is taken.

Within one class, shortcuts that look like this class can have nothing to do with how sure stage 2 is of it, unless the
networks go by them, or by what goes with them in the lungs: an association is a reason to look, not a proof.
"""

from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from cnr_iemn.patients.evidence.audit import Floats, audit_shortcuts, shortcut_scores
from cnr_iemn.records import VALIDATION, probability_columns

_FEWEST = 4  # scans, of which the ranks have 24 orders
_SMALLEST = 1e-12  # probability, whose logarithm is finite


class Association(TypedDict):
    """Spearman's rho of margin and shortcut score within a class of ``n`` scans, with its two-sided permutation ``p``.

    Both None where the class has too few scans, or one of the two does not vary.
    """

    n: int
    rho: float | None
    p: float | None


def audit_answers(
    patients: pd.DataFrame, shortcuts: pd.DataFrame, classes: tuple[str, ...], *, seed: int = 0
) -> dict[str, Any] | None:
    """Return ``audit_shortcuts`` of all scans and, as ``use``, the association with the answers by class; JSON-ready.

    ``patients``: ``Answers.patients``. ``shortcuts``: of these scans and perhaps others, index scan_id. ``use`` is of
    the validation scans alone: the booster has seen the others. None where there is nothing to audit.
    """
    labels = np.array([classes.index(label) for label in patients["label"]], dtype=np.int64)
    given = shortcuts.loc[patients.index], labels, patients["patient_id"].tolist()
    audit = audit_shortcuts(*given, seed=seed)
    if audit is None:
        return None
    held_out = (patients["split"] == VALIDATION).to_numpy(dtype=bool)
    scores = shortcut_scores(*given, len(classes), seed=seed)[held_out]
    margins = decision_margins(patients.loc[held_out, probability_columns(classes)].to_numpy(dtype=np.float64))
    rng = np.random.default_rng(seed)
    use = {}
    for k, name in enumerate(classes):
        own = labels[held_out] == k
        use[name] = rank_association(margins[own, k], scores[own, k], rng)
    return {**audit, "use": use}


def decision_margins(probabilities: Floats) -> Floats:
    """Return by how much each class leads the best other one, differences of log-probabilities, float64 as given.

    ``probabilities``: [scans, classes], two classes at least.
    """
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    n = logs.shape[1]
    others = [np.delete(logs, k, axis=1).max(axis=1) for k in range(n)]
    return np.asarray(logs - np.stack(others, axis=1))


def rank_association(one: Floats, other: Floats, rng: np.random.Generator, *, permutations: int = 9999) -> Association:
    """Return Spearman's rho of two values of the same scans, and how often chance gives one as far from 0.

    ``one``, ``other``: float64 [scans]. p = (1 + #{|permuted| >= |observed|}) / (permutations + 1).
    """
    n = len(one)
    if n < _FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return {"n": n, "rho": None, "p": None}
    first, second = _standard_ranks(one), _standard_ranks(other)
    rho = float(first @ second)
    null = rng.permuted(np.broadcast_to(first, (permutations, n)), axis=1) @ second
    as_far = int(np.sum(np.abs(null) >= abs(rho) - 1e-12))  # the same ranks in another order of summing
    return {"n": n, "rho": rho, "p": (1 + as_far) / (permutations + 1)}


def _standard_ranks(values: Floats) -> NDArray[np.float64]:
    """Return the ranks, ties at their mean, with mean 0 and norm 1: products of two such are Spearman's rho."""
    ranks = rankdata(values) - (len(values) + 1) / 2
    return np.asarray(ranks / np.linalg.norm(ranks))
