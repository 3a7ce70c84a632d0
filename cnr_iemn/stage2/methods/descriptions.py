"""Rows of numbers that describe a scan: what tabular stage-2 methods learn from.

The first class is the healthy one (Normal): the rules of "infected" slices count every other class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.stage2.group_features import feature_columns, percentages
from cnr_iemn.stage2.methods.base import GroupContributions
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray

Floats = NDArray[np.float64]

INFECTED_SHARE = 0.03
"""Share of slices from which a scan counts as infected (Heidarian et al., COVID-FACT, 2021)."""


@dataclass(frozen=True)
class Description:
    """A scan as a row of numbers.

    ``values``: of one scan, float64 [numbers]. ``blocks``: where the numbers are blocks of [models, groups, classes],
    the beginning of their names in each; empty for other numbers, which have no place in the scan.
    """

    values: Callable[[ScanArray], Floats]
    blocks: tuple[str, ...] = ()

    def rows(self, scans: Sequence[ScanArray]) -> Floats:
        """Return a row for each scan, float64 [scans, numbers]."""
        return np.array([self.values(scan) for scan in scans])

    def columns(self, axes: Axes) -> list[str]:
        """Return the names of the numbers."""
        if self.blocks:
            names = [name for model in axes.models for name in feature_columns(model, axes.classes)]
            return [f"{block}{name}" for block in self.blocks for name in names]
        n_models, n_classes = len(axes.models), len(axes.classes)
        any_scan = np.full((n_models, N_GROUPS, n_classes), 1 / n_classes, dtype=np.float32)
        return [f"f{k}" for k in range(len(self.values(any_scan)))]

    def gather(self, contributions: Floats, base: Floats, axes: Axes) -> GroupContributions | None:
        """Sum contributions of numbers over each model's groups; None where they have no place.

        ``contributions``: float64 [scans, classes, numbers]. ``base``: float64 [classes].
        """
        if not self.blocks:
            return None
        shape = (len(axes.models), N_GROUPS, len(axes.classes))
        blocks = contributions.reshape(*contributions.shape[:2], len(self.blocks), *shape)
        return GroupContributions(blocks.sum(axis=-1).sum(axis=2), base)


def mean_probabilities(scan: ScanArray) -> Floats:
    """Return the mean probability of each class in each group, model after model; NaN for a group without a slice.

    Rounded to whole percents: with a few hundred scans, finer steps add no accuracy and triple the trees' search.
    """
    group = assign_slice_groups(scan.shape[1], N_GROUPS)
    empty = np.full((scan.shape[0], scan.shape[2]), np.nan)
    means = [scan[:, group == k].mean(axis=1) if (group == k).any() else empty for k in range(N_GROUPS)]
    return np.stack(means, axis=1).ravel().astype(np.float64).round(2)  # [models, groups, classes]


def percentages_and_means(scan: ScanArray) -> Floats:
    """Return the paper's percentages, then the mean probabilities."""
    return np.hstack([percentages(scan), mean_probabilities(scan)])


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


def among_infected(scan: ScanArray) -> Floats:
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


PERCENTAGES = Description(percentages, blocks=("",))
"""The paper's features (section 2.2)."""
MEAN_PROBABILITIES = Description(mean_probabilities, blocks=("mean/",))
PERCENTAGES_AND_MEANS = Description(percentages_and_means, blocks=("", "mean/"))
FEW_FEATURES = Description(few_features)
AMONG_INFECTED = Description(among_infected)
