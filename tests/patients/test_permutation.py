"""The permutation test: uniform under the null, at chance when permuted, and not silent when something leaks."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cnr_iemn.patients.evidence.permutation import permutation_test

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
    assert not found["leaks"]


def test_a_real_effect_is_found_and_none_is_not() -> None:
    strong = [permutation_test(*data(seed, effect=1.5), permutations=49)["p"] for seed in range(10)]
    none = [permutation_test(*data(seed, effect=0.0), permutations=49) for seed in range(60)]
    assert max(strong) == 0.02
    assert 0.3 < np.mean([each["p"] for each in none]) < 0.7
    assert sum(each["p"] <= 0.1 for each in none) <= 13  # 6 expected; a chance of 0.4% for more
    assert not any(each["leaks"] for each in none)


def test_answers_that_know_the_validation_labels_whatever_they_learn_from_leak() -> None:
    stage2, training, truth = data(0, effect=0.0)

    def leaky(labels: list[str]) -> NDArray[np.float64]:
        return stage2(labels) + 0.3 * np.eye(3)[truth]

    found = permutation_test(leaky, training, truth, permutations=49)
    assert found is not None
    assert found["leaks"]
    assert found["null_mean"] > found["band"][1]


def test_nothing_to_permute_or_to_rank_is_no_test() -> None:
    stage2, training, truth = data(0, effect=0.0)
    assert permutation_test(stage2, training, truth, permutations=0) is None
    assert permutation_test(stage2, training, [1] * len(truth), permutations=9) is None
