"""The permutation test: p is uniform under the null hypothesis; a permuted mean off 0.5 raises no alarm."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cnr_iemn.evaluation.permutation_test import permutation_test
from cnr_iemn.stage2.booster import predict_probabilities, train_booster

CLASSES = ["a", "b", "c"]


class Centroids:
    """A stage 2 that is quick: closeness to the mean of each class."""

    def __init__(self, training: NDArray[np.float64], validation: NDArray[np.float64]) -> None:
        self.training, self.validation = training, validation
        self.asked: list[list[str]] = []

    def __call__(self, labels: list[str]) -> NDArray[np.float64]:
        self.asked.append(labels)
        names = np.array(labels)
        means = np.stack([self.training[names == name].mean(axis=0) for name in CLASSES])
        return np.exp(-np.linalg.norm(self.validation[:, None] - means, axis=2))


def data(seed: int, effect: float) -> tuple[Centroids, list[str], list[int]]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(3), [30, 40, 20]))
    values = rng.normal(size=(90, 4))
    values[:, :3] += effect * np.eye(3)[truth]
    training = [CLASSES[k] for k in truth[:60]]
    return Centroids(values[:60], values[60:]), training, truth[60:].tolist()


def test_p_counts_the_permutations_that_are_as_good() -> None:
    stage2, training, truth = data(0, effect=0.4)
    found = permutation_test(stage2, training, truth, permutations=99, seed=3)
    assert found is not None
    assert stage2.asked[0] == training
    assert all(sorted(labels) == sorted(training) for labels in stage2.asked)
    auc = [
        np.mean([roc_auc_score(np.array(truth) == k, stage2(labels)[:, k]) for k in range(3)])
        for labels in list(stage2.asked)
    ]
    assert found["observed"] == pytest.approx(auc[0])
    assert found["p"] == (1 + sum(value >= auc[0] - 1e-12 for value in auc[1:])) / 100
    assert (found["null_mean"], found["null_sd"]) == pytest.approx((np.mean(auc[1:]), np.std(auc[1:], ddof=1)))


def test_a_real_effect_is_detected_and_a_null_effect_is_not() -> None:
    strong = [permutation_test(*data(seed, effect=1.5), permutations=49)["p"] for seed in range(10)]
    none = [permutation_test(*data(seed, effect=0.0), permutations=49) for seed in range(60)]
    assert max(strong) == 0.02
    assert 0.3 < np.mean([each["p"] for each in none]) < 0.7
    assert sum(each["p"] <= 0.1 for each in none) <= 13  # 6 expected; a chance of 0.4% for more


PAPER_TRAINING, PAPER_VALIDATION = (52, 116, 41), (24, 55, 19)  # Normal, COVID-19, CAP


def paper_cohort(
    seed: int, *, known: bool, rounds: int, max_depth: int
) -> tuple[Callable[[list[str]], NDArray[np.float64]], list[str], list[int]]:
    """Return stage 2 and labels of a clean cohort at the paper's counts: healthy scans alike, diseased ones varied.

    `known`: whether features know the classes.
    """
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(3), counts) for counts in (PAPER_TRAINING, PAPER_VALIDATION)])
    shown = truth if known else rng.permutation(truth)
    values = np.where(shown[:, None] == 0, 0.0, rng.exponential(1.0, (len(truth), 6)))
    values[:, 0] += shown == 2
    features = pd.DataFrame(np.round(values, 1)).add_prefix("f")
    training, validation = features[: sum(PAPER_TRAINING)], features[sum(PAPER_TRAINING) :]

    def stage2(labels: list[str]) -> NDArray[np.float64]:
        booster = train_booster(training, labels, CLASSES, rounds=rounds, max_depth=max_depth)
        return predict_probabilities(booster, validation)

    return stage2, [CLASSES[k] for k in truth[: len(training)]], truth[len(training) :].tolist()


def test_no_clean_cohort_at_the_papers_counts_alarms_though_its_permuted_mean_is_off_chance() -> None:
    found = [
        permutation_test(*paper_cohort(seed, known=True, rounds=40, max_depth=6), permutations=19, seed=seed)
        for seed in range(2)
    ]
    assert {key for each in found for key in each} == {"permutations", "observed", "p", "null_mean", "null_sd"}
    assert all(each["p"] == 0.05 for each in found)
    assert min(each["null_mean"] for each in found) > 0.53  # what a band around 0.5 took for a leak


@pytest.mark.slow
def test_p_is_uniform_at_the_papers_counts_where_features_know_nothing() -> None:
    p = np.array(
        [
            permutation_test(*paper_cohort(seed, known=False, rounds=5, max_depth=2), permutations=9, seed=seed)["p"]
            for seed in range(40)
        ]
    )
    assert 0.39 < p.mean() < 0.71  # 0.55 expected, standard error 0.045: 3.5 of them
    assert (p <= 0.1).sum() <= 10  # 4 expected; a chance of 0.2% for more
    assert (p > 0.5).sum() >= 10  # 20 expected; a chance of 0.1% for fewer


def test_nothing_to_permute_or_to_rank_is_no_test() -> None:
    stage2, training, truth = data(0, effect=0.0)
    assert permutation_test(stage2, training, truth, permutations=0) is None
    assert permutation_test(stage2, training, [1] * len(truth), permutations=9) is None
