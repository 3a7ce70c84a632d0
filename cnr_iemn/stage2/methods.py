"""Aggregation methods: from the slices' probabilities to the patient's class.

The first class is the healthy one (Normal): the rules of "infected" slices count every other class.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnr_iemn.constants import BOOSTER_METHOD, N_GROUPS
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.stage2.attention_mil import attention_pooling
from cnr_iemn.stage2.booster import predict_probabilities, train_booster
from cnr_iemn.stage2.group_features import percentages
from cnr_iemn.stage2.out_of_fold import ScanArray

Floats = NDArray[np.float64]
Answer = Callable[[Sequence[ScanArray]], Floats]
"""Class probabilities of scans, float64 [scans, classes]."""
Method = Callable[[Sequence[ScanArray], NDArray[np.int64]], Answer]
"""Learns from training scans and their class indices."""
Describe = Callable[[ScanArray], Floats]
Learner = Callable[[Floats, NDArray[np.int64]], Callable[[Floats], Floats]]

INFECTED_SHARE = 0.03
"""Share of slices from which a scan counts as infected (Heidarian et al., COVID-FACT, 2021)."""


def mean_probabilities(scan: ScanArray) -> Floats:
    """Return the mean probability of each class in each group, model after model; NaN for a group without a slice.

    Rounded to whole percents: with a few hundred scans, finer steps add no accuracy and triple the trees' search.
    """
    group = assign_slice_groups(scan.shape[1], N_GROUPS)
    empty = np.full((scan.shape[0], scan.shape[2]), np.nan)
    means = [scan[:, group == k].mean(axis=1) if (group == k).any() else empty for k in range(N_GROUPS)]
    return np.stack(means, axis=1).ravel().astype(np.float64).round(2)  # [models, groups, classes]


def few_features(scan: ScanArray) -> Floats:
    """Return 2 x classes + 1 figures of all models: shares, the least healthy slices, the infected share."""
    shares, least_healthy = shares_of_slices(scan), least_healthy_three(scan)
    return np.concatenate([shares, least_healthy, [1 - shares[0]]])


def shares_of_slices(scan: ScanArray) -> Floats:
    """Return the share of slices and models that predict each class."""
    predictions = scan.argmax(axis=2)
    return np.array([(predictions == k).mean() for k in range(scan.shape[2])])


def least_healthy_three(scan: ScanArray) -> Floats:
    """Return the mean probabilities of the three slices with the lowest mean probability of the healthy class.

    The three most confident slices of each class would not do: nearly every scan has three healthy ones.
    """
    mean = scan.mean(axis=0, dtype=np.float64)
    return np.asarray(mean[np.argsort(mean[:, 0], kind="stable")[:3]].mean(axis=0))


def infected_rule(scan: ScanArray) -> Floats:
    """Return probability 1 of the healthy class below 3% infected slices, else the shares among the infected ones."""
    shares = shares_of_slices(scan)
    if 1 - shares[0] < INFECTED_SHARE:
        return np.asarray(np.eye(len(shares))[0])
    shares[0] = 0
    return np.asarray(shares / shares.sum())


def rule(describe: Describe) -> Method:
    """Return a method without training: its description of a scan, scaled to sum 1."""

    def answer(scans: Sequence[ScanArray]) -> Floats:
        values = np.array([describe(scan) for scan in scans])
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    return lambda scans, labels: answer


def tabular(describe: Describe, learner: Learner) -> Method:
    """Return a method that learns from one row of features a scan."""

    def learn(scans: Sequence[ScanArray], labels: NDArray[np.int64]) -> Answer:
        predict = learner(np.array([describe(scan) for scan in scans]), labels)
        return lambda new_scans: predict(np.array([describe(scan) for scan in new_scans]))

    return learn


def logistic(values: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Multinomial logistic regression on standardised features; a group without a slice counts as its mean."""
    model = make_pipeline(
        SimpleImputer(strategy="mean", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=5000),
    ).fit(values, labels)
    return lambda rows: np.asarray(model.predict_proba(rows))


def boosted(
    *, weighted: bool = False, rounds: int = 100, max_depth: int = 6, eta: float = 0.3, seed: int = 0
) -> Learner:
    """Return the paper's XGBoost; ``weighted``: every class has the same total weight.

    The other arguments are those of ``train_booster``.
    """

    def learn(values: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
        classes = [str(k) for k in range(int(labels.max()) + 1)]
        weights = None
        if weighted:
            counts = np.bincount(labels)
            weights = len(labels) / (len(counts) * counts[labels])
        names = [classes[k] for k in labels]
        booster = train_booster(
            pd.DataFrame(values).add_prefix("f"),
            names,
            classes,
            rounds=rounds,
            max_depth=max_depth,
            eta=eta,
            seed=seed,
            weights=weights,
        )
        return lambda rows: predict_probabilities(booster, pd.DataFrame(rows).add_prefix("f"))

    return learn


def infected_first(scans: Sequence[ScanArray], labels: NDArray[np.int64], *, trees: Learner | None = None) -> Answer:
    """Classify infected or healthy by ``trees`` on few features; then the disease, on the infected slices.

    ``trees``: XGBoost, by default with the paper's settings.
    """
    infected = labels > 0
    detector = tabular(few_features, trees or boosted())(scans, infected.astype(np.int64))
    if labels.max() == 1:
        return detector
    classifier = tabular(_among_infected, logistic)(
        [scans[k] for k in np.flatnonzero(infected).tolist()], labels[infected] - 1
    )

    def answer(new_scans: Sequence[ScanArray]) -> Floats:
        share = detector(new_scans)[:, 1:]
        return np.hstack([1 - share, share * classifier(new_scans)])

    return answer


def _among_infected(scan: ScanArray) -> Floats:
    """Return each disease's share of the infected slices, its mean probability in them, and in the least healthy three.

    The least healthy slice stands for the infected ones where there is none.
    """
    mean = scan.mean(axis=0)
    infected = mean.argmax(axis=1) > 0
    rows = mean[infected] if infected.any() else mean[[mean[:, 0].argmin()]]
    disease = rows[:, 1:] / rows[:, 1:].sum(axis=1, keepdims=True)
    classes = disease.argmax(axis=1)
    shares = [(classes == k).mean() for k in range(disease.shape[1])]
    return np.concatenate([shares, disease.mean(axis=0), least_healthy_three(scan)[1:]]).astype(np.float64)


def methods_with(*, rounds: int = 100, max_depth: int = 6, eta: float = 0.3, seed: int = 0) -> dict[str, Method]:
    """Return every method under its name; the arguments are those of ``boosted``."""
    settings = partial(boosted, rounds=rounds, max_depth=max_depth, eta=eta, seed=seed)
    trees = settings()
    return {
        "majority vote of the slices": rule(shares_of_slices),
        "infected from 3% of the slices": rule(infected_rule),
        "three least healthy slices": rule(least_healthy_three),
        "logistic regression on percentages": tabular(percentages, logistic),
        BOOSTER_METHOD: tabular(percentages, trees),
        "XGBoost on percentages, classes weighted": tabular(percentages, settings(weighted=True)),
        "XGBoost on mean probabilities": tabular(mean_probabilities, trees),
        "XGBoost on both": tabular(lambda scan: np.hstack([percentages(scan), mean_probabilities(scan)]), trees),
        "logistic regression on few features": tabular(few_features, logistic),
        "XGBoost on few features": tabular(few_features, trees),
        "infected first, then which": partial(infected_first, trees=trees),
        "attention over the slices": attention_pooling,
    }


METHODS = methods_with()
"""With the paper's settings of XGBoost."""
