"""Beside stage 2's figures: could they be chance, are its probabilities right, would another way do better?"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.answers import Answers
from cnr_iemn.patients.audit_use import audit_answers
from cnr_iemn.patients.method_study import study_methods
from cnr_iemn.patients.nested import calibration_evidence
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.patients.permutation import permutation_test
from cnr_iemn.patients.slice_sets import SliceSets
from cnr_iemn.records import probability_columns


@dataclass(frozen=True)
class Wanted:
    """``permutations`` of the training labels, 0 for none; ``answer_share``: see ``calibration_evidence``; ``methods``:
    whether the other ways to the patient's class are tried.
    """

    permutations: int = 0
    answer_share: float = 0.9
    methods: bool = False


@dataclass(frozen=True)
class Evidence:
    """``values``: permutation_test, calibration, methods, audit; JSON-ready, None where not asked for or not to be had.

    ``ablations`` is None here: only the engine can run the networks again.
    ``seconds``: what each part took.
    """

    values: dict[str, Any]
    seconds: dict[str, float]


def gather_evidence(
    chosen: Answers,
    features: Features,
    sets: SliceSets,
    scans: pd.DataFrame,
    classes: tuple[str, ...],
    learn: Callable[..., Answers],
    wanted: Wanted,
    shortcuts: pd.DataFrame | None,
    *,
    seed: int,
) -> Evidence:
    """Return the evidence for the declared stage 2, whose features, slices and answers are given.

    ``shortcuts``: of every scan, for the audit; None for no audit. ``learn``: ``train_answers`` as the declared booster
    was trained; takes features and, as ``labels``, other ones.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[part] = time.perf_counter() - started

    def answer(labels: list[str]) -> NDArray[np.float64]:
        return learn(features, labels=labels).held_out[probability_columns(classes)].to_numpy(dtype=np.float64)

    training = chosen.patients.loc[features.training.index, "label"].tolist()
    truth = [classes.index(label) for label in chosen.held_out["label"]]
    values: dict[str, Any] = {"methods": None, "audit": None, "ablations": None}
    with timed("permutation test"):
        values["permutation_test"] = permutation_test(
            answer, training, truth, permutations=wanted.permutations, seed=seed
        )
    with timed("calibration"):
        values["calibration"] = calibration_evidence(
            chosen, features, classes, learn, share=wanted.answer_share, seed=seed
        )
    if wanted.methods:
        with timed("methods"):
            values["methods"] = study_methods(sets, scans, classes, reference=chosen.correct, seed=seed)
    if shortcuts is not None:
        with timed("audit"):
            values["audit"] = audit_answers(chosen.patients, shortcuts, classes, seed=seed)
    return Evidence(values, seconds)
