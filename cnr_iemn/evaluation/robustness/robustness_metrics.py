"""How many answers change when the validation scans are perturbed, and what that does to the accuracy.

Stage 1 and stage 2 stay as they are. A change of many answers by so little that a reader would not see it says how far
one answer can be trusted; that the accuracy stays the same does not excuse it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.ct.perturbations import PERTURBATIONS
from cnr_iemn.errors import RunError
from cnr_iemn.stage2.out_of_fold import SliceSets
from cnr_iemn.statistics.confidence_intervals import Estimate, wilson
from cnr_iemn.statistics.metrics import most_probable
from cnr_iemn.statistics.paired_tests import Comparison, compare_with, holm

AS_READ = "as read"
"""The scan without a perturbation: what the others are compared with."""
MIN_AGREEMENT = 0.95
"""Share of scans whose answer must be that of aggregate.py, or all but one: another machine's rounding moves few."""

Predict = Callable[[SliceSets], NDArray[np.float64]]


class Changes(TypedDict):
    """Of ``n`` scans those with another answer: wrong now, correct now, wrong both times. ``share``: of all three."""

    n: int
    to_wrong: int
    to_correct: int
    wrong_twice: int
    share: Estimate


class PerturbedScans(TypedDict):
    """The validation scans under one perturbation.

    ``refused``: scans that predict.py does not answer then, by the code of the refusal; the rest is of the others.
    ``classes``: by true class. ``accuracy``: with the perturbation. ``comparison``: the accuracy of the scans as read
    less the perturbed one, with Holm's correction over the perturbations; None where no scan is answered.
    ``probability``: mean absolute change of the probability of the scans' first answer.
    """

    refused: dict[str, int]
    changes: Changes
    classes: dict[str, Changes]
    accuracy: Estimate
    comparison: Comparison | None
    probability: float | None


class Robustness(TypedDict):
    """``n``: validation scans that are answered as read. ``agreement``: share of them with the answer of aggregate.py.

    ``unread``: validation scans that are left out, with the code of the refusal or a word. ``rows``: by perturbation.
    """

    n: int
    agreement: float
    unread: dict[str, str]
    rows: dict[str, PerturbedScans]


def measure_robustness(
    sets: Mapping[str, SliceSets],
    refused: Mapping[str, Mapping[str, str]],
    held_out: pd.DataFrame,
    classes: Sequence[str],
    predict: Predict,
) -> Robustness:
    """Compare the answers for perturbed scans with those for the scans as read.

    Args:
        sets: The networks' predictions of the slices, by perturbation, ``AS_READ`` among them.
        refused: Why a scan has none, by perturbation and scan id.
        held_out: The validation scans: label, predicted, index scan_id.
        classes: In the order of the probabilities.
        predict: Class probabilities of scans, float64 [scans, classes].

    Raises:
        RunError: No scan can be read any more, or the answers are not those of aggregate.py.
    """
    scan_ids = list(sets[AS_READ])
    if not scan_ids:
        reasons = ", ".join(sorted(set(refused[AS_READ].values())))
        raise RunError(
            f"None of the {len(held_out)} validation scans can be read as the study was trained on it ({reasons}). Put "
            "the scans back where they were, or run aggregate.py without robustness=true."
        )
    before = _probabilities(sets[AS_READ], classes, predict)
    answers = held_out.loc[scan_ids].assign(before=most_probable(before.to_numpy(), classes))
    n_agree = int((answers["before"] == answers["predicted"]).sum())
    agreement = n_agree / len(answers)
    if n_agree < min(MIN_AGREEMENT * len(answers), len(answers) - 1):
        raise RunError(
            f"Only {agreement:.1%} of the validation scans get the answer of aggregate.py when they are read again, "
            "with nothing changed: the networks or this installation have changed since. Run aggregate.py without "
            "robustness=true, or train the study again."
        )
    rows: dict[str, PerturbedScans] = {}
    for name in PERTURBATIONS:
        answered = {scan_id: sets[name][scan_id] for scan_id in scan_ids if scan_id in sets[name]}
        refusals = [refused[name][scan_id] for scan_id in scan_ids if scan_id in refused[name]]
        rows[name] = _measure(answers, before, _probabilities(answered, classes, predict), refusals, classes)
    comparisons = [row["comparison"] for row in rows.values() if row["comparison"] is not None]
    for comparison, p in zip(comparisons, holm([comparison["p"] for comparison in comparisons]), strict=True):
        comparison["p_holm"] = p
    return {"n": len(scan_ids), "agreement": agreement, "unread": dict(refused[AS_READ]), "rows": rows}


def _probabilities(sets: SliceSets, classes: Sequence[str], predict: Predict) -> pd.DataFrame:
    """Return the class probabilities of scans, index scan_id."""
    return pd.DataFrame(predict(sets), index=list(sets), columns=list(classes))


def _measure(
    answers: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame, refusals: Sequence[str], classes: Sequence[str]
) -> PerturbedScans:
    """Return one row. ``answers``: label and answer ``before`` of each scan as read; ``after``: of some of them."""
    answers = answers.loc[after.index].assign(after=most_probable(after.to_numpy(), classes))
    correct = {name: (answers[name] == answers["label"]).to_numpy() for name in ("before", "after")}
    first = [classes.index(label) for label in answers["before"]]
    moved = np.abs(before.loc[after.index].to_numpy() - after.to_numpy())[np.arange(len(after)), first]
    return {
        "refused": {code: refusals.count(code) for code in sorted(set(refusals))},
        "changes": _changes(answers),
        "classes": {label: _changes(answers[answers["label"] == label]) for label in classes},
        "accuracy": wilson(int(correct["after"].sum()), len(after)),
        "comparison": compare_with(correct["before"], {"": correct["after"]})[""] if len(after) else None,
        "probability": float(moved.mean()) if len(after) else None,
    }


def _changes(answers: pd.DataFrame) -> Changes:
    changed, label = answers[answers["before"] != answers["after"]], "label"
    to_wrong, to_correct = (int((changed[name] == changed[label]).sum()) for name in ("before", "after"))
    return {
        "n": len(answers),
        "to_wrong": to_wrong,
        "to_correct": to_correct,
        "wrong_twice": len(changed) - to_wrong - to_correct,
        "share": wilson(len(changed), len(answers)),
    }
