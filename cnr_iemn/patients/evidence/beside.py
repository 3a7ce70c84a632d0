"""Beside stage 2's figures: could they be chance, are its probabilities right, would another way do better?"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.answers import Answers
from cnr_iemn.patients.evidence.audit_use import audit_answers
from cnr_iemn.patients.evidence.method_study import study_methods
from cnr_iemn.patients.evidence.operating_point import AUTO, operating_point, threshold_class
from cnr_iemn.patients.evidence.permutation import permutation_test
from cnr_iemn.patients.evidence.spread import Repeats, measure_spread
from cnr_iemn.patients.methods import Method
from cnr_iemn.patients.nested import calibration_evidence, nested_probabilities
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.patients.slice_sets import SliceSets
from cnr_iemn.records import probability_columns
from cnr_iemn.registry import BOOSTER, BOOSTER_METHOD


@dataclass(frozen=True)
class Wanted:
    """``permutations`` of the training labels, 0 for none; ``answer_share``: see ``calibration_evidence``; ``methods``:
    whether the other ways to the patient's class are tried, ``method_repeats`` times within the training scans;
    ``confirmatory``: what is declared before the run, the booster or one of ``registry.METHODS``. ``threshold_class``
    and ``threshold_sensitivity``: of the operating point, see ``operating_point``. ``refits`` of the booster, 0 for
    none, and ``repeats`` of the study with other seeds: see ``measure_spread``.
    """

    permutations: int = 0
    answer_share: float = 0.9
    methods: bool = False
    method_repeats: int = 3
    confirmatory: str = BOOSTER
    threshold_class: str | None = AUTO
    threshold_sensitivity: float = 0.9
    refits: int = 0
    repeats: Repeats = field(default_factory=Repeats)

    @property
    def confirmatory_method(self) -> str:
        """The declared method under its name in the table of methods."""
        return BOOSTER_METHOD if self.confirmatory == BOOSTER else self.confirmatory


@dataclass(frozen=True)
class Evidence:
    """``values``: permutation_test, calibration, operating_point, spread, methods, method_choice, audit; JSON-ready,
    None where not asked for or not to be had; and ``confirmatory``.

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
    methods: Mapping[str, Method],
    wanted: Wanted,
    shortcuts: pd.DataFrame | None,
    *,
    seed: int,
) -> Evidence:
    """Return the evidence for the declared stage 2, whose features, slices and answers are given.

    ``shortcuts``: of every scan, for the audit; None for no audit. ``learn``: ``train_answers`` as the declared booster
    was trained; takes features and, as ``labels``, other ones. ``methods``: those of the table.
    """
    label = threshold_class(wanted.threshold_class, classes)
    seconds: dict[str, float] = {}

    def answer(labels: list[str]) -> NDArray[np.float64]:
        return _told(learn(features, labels=labels), classes)

    values: dict[str, Any] = {
        "confirmatory": wanted.confirmatory,
        **dict.fromkeys(("calibration", "operating_point", "methods", "method_choice", "audit", "ablations")),
    }
    with _timed(seconds, "permutation test"):
        labels = chosen.patients.loc[features.training.index, "label"].tolist()
        truth = _indices(chosen.held_out, classes).tolist()
        values["permutation_test"] = permutation_test(
            answer, labels, truth, permutations=wanted.permutations, seed=seed
        )
    with _timed(seconds, "calibration"):
        values |= _probabilities(chosen, features, classes, learn, wanted, label, seed=seed)
    with _timed(seconds, "spread"):
        values["spread"] = measure_spread(
            chosen, features, classes, learn, wanted.repeats, refits=wanted.refits, seed=seed
        )
    if wanted.methods:
        with _timed(seconds, "methods"):
            values |= study_methods(
                sets,
                scans,
                classes,
                confirmatory=wanted.confirmatory_method,
                repeats=wanted.method_repeats,
                label=label,
                sensitivity=wanted.threshold_sensitivity,
                seed=seed,
                methods=methods,
            )
    if shortcuts is not None:
        with _timed(seconds, "audit"):
            values["audit"] = audit_answers(chosen.patients, shortcuts, classes, seed=seed)
    return Evidence(values, seconds)


def _probabilities(
    chosen: Answers,
    features: Features,
    classes: tuple[str, ...],
    learn: Callable[..., Answers],
    wanted: Wanted,
    label: str | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return calibration and, of a class, the operating point; nothing where no training scan can be left out."""
    training = chosen.patients.loc[features.training.index]
    nested = nested_probabilities(features, training, classes, learn, seed=seed)
    if nested is None:
        return {}
    held_out = _told(chosen, classes), _indices(chosen.held_out, classes)
    known = nested, _indices(training, classes), *held_out, classes
    found: dict[str, Any] = {"calibration": calibration_evidence(*known, share=wanted.answer_share, seed=seed)}
    if label is not None:
        point = operating_point(*known, label=label, sensitivity=wanted.threshold_sensitivity)
        found["operating_point"] = point
    return found


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _told(answers: Answers, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the probabilities of the validation scans, [scans, classes]."""
    return answers.held_out[probability_columns(classes)].to_numpy(dtype=np.float64)


def _indices(patients: pd.DataFrame, classes: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([classes.index(label) for label in patients["label"]], dtype=np.int64)
