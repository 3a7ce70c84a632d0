"""Does accuracy differ between groups? A stratified permutation test, Holm's correction, and what it can find.

The statistic is that of Cochran, Mantel and Haenszel for general association (Landis et al., Int. Stat. Review 1978) of
group and correctness, stratified by the true class: a group with more scans of a hard class is not held against it.
Correctness is permuted within the class, patients with all their scans: the test is exact at any number of errors.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2
from typing_extensions import TypedDict

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
PERMUTATIONS = 9999
SIGNIFICANCE, POWER = 0.05, 0.8
_CHUNK = 1000
_TOLERANCE = 1e-9  # equal statistics may differ in rounding


class Interaction(TypedDict):
    """Accuracy by groups of one variable.

    ``groups``, ``n``: rated groups and their scans. ``p``: of the permutation test, rounded up to two digits: more of
    them would tell hidden numbers, as the statistic would. ``p_holm``: adjusted for all variables. ``detectable``: by
    how much the accuracy of the largest group must differ to be found with 80% power at the level that Holm's
    correction starts from, 0 to 1, rounded up to whole points; None where no difference would be.
    """

    groups: int
    n: int
    p: float
    p_holm: float
    detectable: float | None


def association_test(
    correct: Bools, groups: NDArray[np.int64], classes: NDArray[np.int64], patients: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """Return the statistic of general association and its permutation p, (1 + #{permuted >= observed}) / (N + 1).

    Args:
        correct: Whether each scan is predicted correctly, bool [scans].
        groups: Index of each scan's group, from 0, each occurring.
        classes: Index of each scan's true class.
        patients: Of each scan.
        seed: Of the permutations.
    """
    inside = np.eye(groups.max() + 1)[groups]
    expected, precision = _moments(correct, inside, classes)

    def statistics(outcomes: Floats) -> Floats:
        deviations = (outcomes @ inside - expected)[..., :-1]
        return np.asarray(np.einsum("...i,ij,...j->...", deviations, precision, deviations))

    observed = float(statistics(correct.astype(np.float64)))
    rng, extreme, left = np.random.default_rng(seed), 0, PERMUTATIONS
    blocks = _blocks(classes, patients)
    while left:
        n = min(left, _CHUNK)
        extreme += int((statistics(_permuted(correct, blocks, n, rng)) >= observed - _TOLERANCE).sum())
        left -= n
    return observed, (1 + extreme) / (PERMUTATIONS + 1)


def _moments(correct: Bools, inside: Floats, classes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the expected number of correct scans of each group, and the inverse covariance of all but the last."""
    expected, covariance = np.zeros(inside.shape[1]), np.zeros((inside.shape[1],) * 2)
    for label in np.unique(classes):
        members = inside[classes == label]
        sizes, n, hits = members.sum(axis=0), len(members), int(correct[classes == label].sum())
        expected += sizes * hits / n
        if n > 1:
            spread = n * np.diag(sizes) - np.outer(sizes, sizes)
            covariance += hits * (n - hits) / (n * n * (n - 1)) * spread
    return expected, np.asarray(np.linalg.pinv(covariance[:-1, :-1], hermitian=True), dtype=np.float64)


def _blocks(classes: NDArray[np.int64], patients: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return scans whose outcomes may be exchanged, [patients, scans of each], by class and number of scans."""
    units: dict[tuple[int, str], list[int]] = {}
    for index, (label, patient) in enumerate(zip(classes.tolist(), patients, strict=True)):
        units.setdefault((label, str(patient)), []).append(index)
    blocks: dict[tuple[int, int], list[list[int]]] = {}
    for (label, _), scans in units.items():
        blocks.setdefault((label, len(scans)), []).append(scans)
    return [np.array(block) for block in blocks.values()]


def _permuted(correct: Bools, blocks: Sequence[NDArray[np.int64]], n: int, rng: np.random.Generator) -> Floats:
    """Return outcomes exchanged between the patients of each block, float64 [n, scans]."""
    outcomes = np.empty((n, len(correct)))
    for block in blocks:
        order = rng.random((n, len(block))).argsort(axis=1)
        outcomes[:, block] = correct[block][order]
    return outcomes


def detectable_difference(sizes: Sequence[int], accuracy: float, *, variables: int) -> float | None:
    """Return the smallest difference that is found with POWER if the largest group is less accurate than the others.

    From the noncentral chi-squared distribution with the variance of the statistic, that of the pooled accuracy, at a
    significance of SIGNIFICANCE / ``variables``. Cohen's h would promise too much: it is of another test.

    Args:
        sizes: Patients of each group.
        accuracy: Of the other groups, 0 to 1.
        variables: That are tested.

    Returns:
        0 to 1, None where not even an accuracy of 0 would be found.
    """
    freedom = len(sizes) - 1
    threshold = chi2.isf(SIGNIFICANCE / variables, freedom)
    noncentrality = brentq(lambda value: ncx2.sf(threshold, freedom, value) - POWER, 1e-6, 1e3)
    share, n = max(sizes) / sum(sizes), sum(sizes)
    # d^2 n share (1 - share) = noncentrality * pooled (1 - pooled), where pooled = accuracy - d share, solved for d
    square = n * share * (1 - share) + noncentrality * share**2
    linear = noncentrality * share * (1 - 2 * accuracy)
    constant = -noncentrality * accuracy * (1 - accuracy)
    difference = float(-linear + np.sqrt(linear**2 - 4 * square * constant)) / (2 * square)
    return difference if difference <= accuracy else None
