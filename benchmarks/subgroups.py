"""Subgroups of simulated cohorts: false alarms of clean ones, and the power for a planted difference.

python -m benchmarks.subgroups --cohorts 200

The cohorts have the paper's counts of scans, 171 / 60 / 76, and of validation scans, 55 / 19 / 24. Five variables are
tested. In a planted cohort the patients of one sex have a lower accuracy, by as much as the report calls detectable.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cnr_iemn.evaluation.subgroups.performance import Variable, subgroup_performance
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.statistics.confidence_intervals import wilson

CLASSES = ("Normal", "CAP", "COVID-19")
COUNTS = {"COVID-19": (171, 55), "CAP": (60, 19), "Normal": (76, 24)}
"""Scans of each class, and those for validation (data.split.validation=0.325)."""
VARIABLES: Mapping[str, Mapping[str, float]] = {
    "sex": {"female": 0.45, "male": 0.55},
    "age": {"30-39": 0.2, "40-49": 0.2, "50-59": 0.3, "60-69": 0.2, "70-79": 0.1},
    "manufacturer": {"Siemens": 0.6, "GE": 0.25, "Philips": 0.15},
    "site": {"Bari": 0.5, "Lille": 0.5},
    "kernel": {"smooth": 0.7, "sharp": 0.3},
}
"""Share of each group, the same in all classes."""
ACCURACY = {"Normal": 0.95, "CAP": 0.8, "COVID-19": 0.9}


def simulated_cohort(seed: int, *, lower_by: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return patients as ``subgroup_performance`` takes them, and their groups.

    Args:
        seed: Of the cohort.
        lower_by: What the accuracy of male patients lacks in each class, 0 to 1.
    """
    rng = np.random.default_rng([2026, seed])
    labels = [label for label in CLASSES for _ in range(COUNTS[label][0])]
    split = [
        VALIDATION if k < validation else TRAINING
        for total, validation in (COUNTS[label] for label in CLASSES)
        for k in range(total)
    ]
    index = pd.Index([f"s{k:03d}" for k in range(len(labels))], name="scan_id")
    groups = pd.DataFrame(
        {name: rng.choice(list(shares), len(labels), p=list(shares.values())) for name, shares in VARIABLES.items()},
        index=index,
        dtype="object",
    )
    chances = np.array([ACCURACY[label] for label in labels]) - lower_by * (groups["sex"] == "male").to_numpy()
    truth = np.array([CLASSES.index(label) for label in labels])
    wrong = (truth + rng.integers(1, len(CLASSES), len(labels))) % len(CLASSES)
    predicted = np.where(rng.random(len(labels)) < chances, truth, wrong)
    peak = rng.uniform(0.6, 0.98, len(labels))
    probabilities = np.full((len(labels), len(CLASSES)), 0.0) + ((1 - peak) / 2)[:, None]
    probabilities[np.arange(len(labels)), predicted] = peak
    patients = pd.DataFrame(
        {
            "patient_id": index,
            "split": split,
            "label": labels,
            "predicted": [CLASSES[k] for k in predicted],
            **{f"p_{label}": probabilities[:, k] for k, label in enumerate(CLASSES)},
        },
        index=index,
    )
    return patients, groups


def measure(seed: int, lower_by: float = 0.0) -> dict[str, Variable]:
    """Return the subgroups of a simulated cohort; the arguments are those of ``simulated_cohort``."""
    return subgroup_performance(*simulated_cohort(seed, lower_by=lower_by), CLASSES, temperature=None)


def alarms(variables: Mapping[str, Variable]) -> set[str]:
    """Return the variables in which a difference is found, at the corrected 5%."""
    tests = {name: variable["interaction"] for name, variable in variables.items()}
    return {name for name, test in tests.items() if test is not None and test["p_holm"] <= 0.05}


def _share(successes: int, n: int) -> str:
    estimate = wilson(successes, n)
    assert estimate["low"] is not None
    assert estimate["high"] is not None
    return f"{successes} of {n} = {successes / n:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def main() -> None:
    """Print false alarms, and the power at the difference that each cohort's report states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=200, help="of each kind")
    n = parser.parse_args().cohorts
    clean = [measure(seed) for seed in range(n)]
    print("clean cohorts with any alarm:", _share(sum(bool(alarms(variables)) for variables in clean), n))
    interactions = [test for variables in clean if (test := variables["sex"]["interaction"]) is not None]
    stated = [test["detectable"] for test in interactions if test["detectable"] is not None]
    difference = float(np.median(stated))
    print(f"difference by sex that the reports call detectable, median: {difference:.1%}")
    planted = [measure(seed, difference) for seed in range(n, 2 * n)]
    print("planted by sex and found:", _share(sum("sex" in alarms(variables) for variables in planted), n))
    elsewhere = sum(bool(alarms(variables) - {"sex"}) for variables in planted)
    print("planted cohorts with an alarm elsewhere:", _share(elsewhere, n))


if __name__ == "__main__":
    main()
