"""Permutation test of stage 2: macro AUC against that of permuted training labels."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.statistics.confidence_intervals import weighted_metrics


class PermutationTest(TypedDict):
    """``p`` of the observed macro AUC among ``permutations`` of the training labels.

    Stage 1 stays: its networks were trained on the true slice labels and are not trained again. ``null_mean`` need not
    be 0.5: where classes differ in size and spread, permuted labels rank the classes too (0.55 to 0.58 for clean scans
    at the paper's counts), so that it is no sign of a leak.
    """

    permutations: int
    observed: float
    p: float
    null_mean: float
    null_sd: float


def permutation_test(
    fit_and_predict: Callable[[list[str]], NDArray[np.float64]],
    training_labels: list[str],
    validation_labels: list[int],
    *,
    permutations: int,
    seed: int = 0,
) -> PermutationTest | None:
    """Return the test of the macro AUC on the validation scans.

    p = (1 + #{null >= observed}) / (B + 1) (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010).

    Args:
        fit_and_predict: Fits stage 2 on training labels, given in the scans' order, and returns the probabilities of
            the validation scans, float64 [scans, classes].
        training_labels: True class of each training scan.
        validation_labels: Class index of each validation scan.
        permutations: B.
        seed: Of the permutations.

    Returns:
        The test; None for fewer than two permutations, or where a single class occurs.
    """
    truth = np.asarray(validation_labels, dtype=np.int64)
    if permutations < 2 or len(np.unique(truth)) < 2:
        return None
    weights = np.ones((1, len(truth)))

    def auc(labels: list[str]) -> float:
        return float(weighted_metrics(truth, fit_and_predict(labels), weights)["macro_auc"][0])

    rng = np.random.default_rng(seed)
    observed = auc(training_labels)
    null = np.array([auc(rng.permutation(training_labels).tolist()) for _ in range(permutations)])
    return {
        "permutations": permutations,
        "observed": observed,
        "p": float((1 + np.sum(null >= observed)) / (permutations + 1)),
        "null_mean": float(null.mean()),
        "null_sd": float(null.std(ddof=1)),
    }
