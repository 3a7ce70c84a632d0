"""Accuracy, sensitivity and calibration of the validation scans by groups of patients and scanners."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ttest_1samp
from typing_extensions import TypedDict

from cnr_iemn.data.demographics.group_table import levels_of
from cnr_iemn.evaluation.subgroups.disclosure import hidden_cells
from cnr_iemn.evaluation.subgroups.interaction import Interaction, association_test, detectable_difference
from cnr_iemn.schemas import VALIDATION, probability_columns
from cnr_iemn.stage2.calibration_metrics import with_temperature
from cnr_iemn.statistics.confidence_intervals import CONFIDENCE, Estimate, wilson
from cnr_iemn.statistics.paired_tests import holm

LEAST_RATED = 10
"""Scans of a group, and of a class within it, that are rated; fewer are counted."""
UNRATED: Estimate = {"value": None, "low": None, "high": None}


class Group(TypedDict):
    """The validation scans of one group.

    ``n_by_class``: None where hidden (``disclosure``). ``accuracy``, ``sensitivity``: with Wilson's intervals.
    ``overconfidence``: mean probability of the predicted class less the accuracy, with Student's interval. Values are
    None where fewer than LEAST_RATED scans would be rated.
    """

    n: int
    n_by_class: dict[str, int | None]
    accuracy: Estimate
    sensitivity: dict[str, Estimate]
    overconfidence: Estimate


class Variable(TypedDict):
    """Groups in their order. ``interaction``: None where fewer than two groups are rated."""

    groups: dict[str, Group]
    interaction: Interaction | None


def subgroup_performance(
    patients: pd.DataFrame, groups: pd.DataFrame, classes: Sequence[str], *, temperature: float | None, seed: int = 0
) -> dict[str, Variable]:
    """Return the performance by variable; a variable of a single group is left out.

    Args:
        patients: One row a scan, index scan_id: patient_id, split, label, predicted and ``p_<class>``.
        groups: Of ``coarse_table`` by the validation scans.
        classes: In the order of the probabilities.
        temperature: Of the calibrated probabilities; None for uncalibrated ones.
        seed: Of the permutations.
    """
    held_out = patients[patients["split"] == VALIDATION]
    probabilities = held_out[probability_columns(list(classes))].to_numpy(dtype=np.float64)
    if temperature is not None:
        probabilities = with_temperature(probabilities, temperature)
    scans = pd.DataFrame(
        {
            "label": held_out["label"],
            "patient": held_out["patient_id"],
            "correct": held_out["label"] == held_out["predicted"],
            "confidence": probabilities.max(axis=1),
        }
    )
    table = groups.reindex(held_out.index)
    variables = {str(name): _variable(scans, table[name], classes) for name in table if table[name].nunique() > 1}
    tested = [name for name, groups in variables.items() if len(_rated(groups)) > 1]
    tests = {}
    for name in tested:
        tests[name] = _interaction(
            scans, table[name], _rated(variables[name]), classes, variables=len(tested), seed=seed
        )
    for (name, test), p in zip(tests.items(), holm([test["p"] for test in tests.values()]), strict=True):
        variables[name]["interaction"] = {**test, "p_holm": p}
    return variables


def _variable(scans: pd.DataFrame, column: pd.Series, classes: Sequence[str]) -> Variable:
    levels = levels_of(column)
    # unknown values are a row, since the report has the sums over all scans
    rows = [scans[column == level] for level in levels] + [scans[column.isna()]]
    counts = np.array([[(row["label"] == label).sum() for label in classes] for row in rows], dtype=np.int64)
    hidden, present = np.zeros(counts.shape, dtype=bool), counts.any(axis=0)
    hidden[:, present] = hidden_cells(counts[:, present], unknown=-1)
    groups = {level: _group(rows[k], classes, counts[k], hidden[k]) for k, level in enumerate(levels)}
    return {"groups": groups, "interaction": None}


def _group(scans: pd.DataFrame, classes: Sequence[str], counts: NDArray[np.int64], hidden: NDArray[np.bool_]) -> Group:
    correct = scans["correct"].to_numpy(dtype=bool)
    sensitivity = {}
    for k, label in enumerate(classes):
        hits = int(correct[(scans["label"] == label).to_numpy(dtype=bool)].sum())
        rated = counts[k] >= LEAST_RATED and not hidden[k]
        sensitivity[label] = wilson(hits, int(counts[k])) if rated else UNRATED
    rated = len(scans) >= LEAST_RATED
    return {
        "n": len(scans),
        "n_by_class": {label: None if hidden[k] else int(counts[k]) for k, label in enumerate(classes)},
        "accuracy": wilson(int(correct.sum()), len(scans)) if rated else UNRATED,
        "sensitivity": sensitivity,
        "overconfidence": mean_estimate(scans["confidence"].to_numpy(dtype=np.float64) - correct) if rated else UNRATED,
    }


def mean_estimate(values: NDArray[np.float64]) -> Estimate:
    """Return the mean with Student's interval; none where the values do not vary."""
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return {"value": mean, "low": None, "high": None}
    interval = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return {"value": mean, "low": float(interval.low), "high": float(interval.high)}


def rounded_up(p: float) -> float:
    """Return a p value, above 0, with two significant digits, never smaller than it is."""
    digits = 1 - math.floor(math.log10(p))
    scale = 10.0**digits
    return min(1.0, round(math.ceil(round(p * scale, 6)) / scale, digits))


def _rated(variable: Variable) -> list[str]:
    return [level for level, group in variable["groups"].items() if group["accuracy"]["value"] is not None]


def _interaction(
    scans: pd.DataFrame, column: pd.Series, levels: Sequence[str], classes: Sequence[str], *, variables: int, seed: int
) -> Interaction:
    rows = column.isin(levels).to_numpy(dtype=bool)
    inside = scans[rows]
    groups = np.array([levels.index(level) for level in column[rows]], dtype=np.int64)
    truth = np.array([list(classes).index(label) for label in inside["label"]], dtype=np.int64)
    correct = inside["correct"].to_numpy(dtype=bool)
    _, exact = association_test(correct, groups, truth, inside["patient"].tolist(), seed=seed)
    p = rounded_up(exact)
    # a patient's scans may all be right or wrong together: as many as there are patients count
    sizes = inside["patient"].groupby(groups).nunique().tolist()
    smallest = detectable_difference(sizes, float(correct.mean()), variables=variables)
    return {
        "groups": len(levels),
        "n": len(inside),
        "p": p,
        "p_holm": p,
        "detectable": None if smallest is None else math.ceil(100 * smallest) / 100,
    }
