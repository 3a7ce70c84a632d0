"""Could stage 2 be as good by chance? Its training labels permuted, again and again."""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cnr_iemn.patients.intervals import rank_auc, weighted_figures

_Z = 3.29  # two-sided 99.9%: the control is to stay silent where nothing leaks
_RELABELLINGS = 1000


class PermutationTest(TypedDict):
    """``p`` of the observed macro AUC; the permuted mean with the band around 0.5 that it is to lie in.

    The band is of the same permuted answers for validation labels in random order: what the mean would be if those
    labels had nothing to do with the answers. For one set of scans it is not 0.5 exactly, however many permutations.
    Given stage 1: its networks have learnt from the true labels of slices, and are not trained again.
    """

    permutations: int
    observed: float
    p: float
    null_mean: float
    null_sd: float
    band: list[float]
    leaks: bool


def permutation_test(
    train_and_answer: Callable[[list[str]], NDArray[np.float64]],
    training_labels: list[str],
    validation_labels: list[int],
    *,
    permutations: int,
    seed: int = 0,
) -> PermutationTest | None:
    """Return the test of the macro AUC on the validation scans; None for fewer than two permutations.

    ``train_and_answer``: builds stage 2 on training labels in their order, returns the validation scans' probabilities,
    float64 [scans, classes]. ``validation_labels``: their class indices. p = (1 + #{null >= observed}) / (B + 1)
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010). None as well where a single class is there to rank.
    """
    truth = np.asarray(validation_labels, dtype=np.int64)
    if permutations < 2 or len(np.unique(truth)) < 2:
        return None
    weights = np.ones((1, len(truth)))

    def auc(answers: NDArray[np.float64]) -> float:
        return float(weighted_figures(truth, answers, weights)["macro_auc"][0])

    rng = np.random.default_rng(seed)
    observed = auc(train_and_answer(training_labels))
    answers = [train_and_answer(rng.permutation(training_labels).tolist()) for _ in range(permutations)]
    null = np.array([auc(each) for each in answers])
    half = _Z * _mean_by_relabelling(answers, truth, rng).std(ddof=1)
    mean = float(null.mean())
    return {
        "permutations": permutations,
        "observed": observed,
        "p": float((1 + np.sum(null >= observed)) / (permutations + 1)),
        "null_mean": mean,
        "null_sd": float(null.std(ddof=1)),
        "band": [0.5 - float(half), 0.5 + float(half)],
        "leaks": bool(abs(mean - 0.5) > half),
    }


def _mean_by_relabelling(
    answers: list[NDArray[np.float64]], truth: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean macro AUC of these answers for the labels in many random orders, float64 [relabellings].

    An AUC is the mean rank of the positives, but for constants, so the mean over answers is that of the mean ranks.
    """
    ranks = np.mean([rankdata(each, axis=0) for each in answers], axis=0)  # [scans, classes]
    labels = np.unique(truth)
    found = np.empty(_RELABELLINGS)
    for k in range(_RELABELLINGS):
        shuffled = rng.permutation(truth)
        found[k] = np.mean([rank_auc(ranks[:, label], shuffled == label) for label in labels])
    return found
