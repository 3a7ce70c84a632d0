"""Supporting evidence for stage 2: permutation test, calibration, stability, other methods, shortcut audit."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import BOOSTER, BOOSTER_METHOD
from cnr_iemn.evaluation.method_comparison import MethodChoice, MethodMetrics, compare_methods
from cnr_iemn.evaluation.operating_point import AUTO, OperatingPoint, operating_point, threshold_class
from cnr_iemn.evaluation.permutation_test import PermutationTest, permutation_test
from cnr_iemn.evaluation.shortcut_audit import ShortcutAudit, shortcut_audit
from cnr_iemn.evaluation.stability import Repeats, measure_stability
from cnr_iemn.evaluation.study_metrics import Evidence
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage2.calibration import (
    CalibrationEvidence,
    CalibrationScans,
    calibration_evidence,
    calibration_scans,
    cross_validated_probabilities,
)
from cnr_iemn.stage2.methods import Method, methods_with
from cnr_iemn.stage2.out_of_fold import Features, SliceSets
from cnr_iemn.stage2.scan_predictions import ScanPredictions, train_and_predict

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EvidenceOptions:
    """What evidence aggregate.py collects; the names are those of its settings.

    Attributes:
        permutations: Of the training labels; 0 for no test.
        answer_share: Share of new scans that the abstention threshold aims to decide.
        methods: Whether the other stage-2 methods are compared.
        method_repeats: Cross-validations of each method on the training scans.
        confirmatory: The primary method, the booster or one of ``constants.method_names``, named before the run.
        threshold_class, threshold_sensitivity: Of the operating point.
        refits: Of the booster on resampled training patients; 0 for none.
        repeats: The study with other seeds or splits.
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

    @classmethod
    def of(cls, settings: object, repeats: Repeats) -> "EvidenceOptions":
        """Return the options that settings hold under the same names."""
        names = {option.name for option in fields(cls)} - {"repeats"}
        return cls(repeats=repeats, **{name: getattr(settings, name) for name in names})

    @property
    def primary_method(self) -> str:
        """The primary method under its name in the table of methods."""
        return BOOSTER_METHOD if self.confirmatory == BOOSTER else self.confirmatory


@dataclass(frozen=True)
class Stage2Fit:
    """How stage 2 is fitted. ``scans``: patient, split and label, index scan_id. The others: of ``train_booster``."""

    scans: pd.DataFrame
    classes: tuple[str, ...]
    rounds: int = 100
    max_depth: int = 6
    eta: float = 0.3
    seed: int = 0

    def __call__(self, features: Features, labels: list[str] | None = None) -> ScanPredictions:
        """Fit on the training scans of ``features``. ``labels``: in place of theirs, in the features' order."""
        return train_and_predict(
            features,
            scans=self.scans,
            classes=self.classes,
            rounds=self.rounds,
            max_depth=self.max_depth,
            eta=self.eta,
            seed=self.seed,
            labels=labels,
        )

    @property
    def methods(self) -> Mapping[str, Method]:
        """The stage-2 methods, of which XGBoost has these settings."""
        return methods_with(rounds=self.rounds, max_depth=self.max_depth, eta=self.eta, seed=self.seed)


@dataclass(frozen=True)
class Study:
    """What all evidence starts from: the primary stage 2, its features and slices. ``shortcuts``: None for no audit."""

    fit: Stage2Fit
    primary: ScanPredictions
    features: Features
    slices: SliceSets
    shortcuts: pd.DataFrame | None

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.fit.classes

    @property
    def training(self) -> pd.DataFrame:
        """The rows of the training scans, in the features' order."""
        return self.primary.patients.loc[self.features.training.index]

    @property
    def training_truth(self) -> NDArray[np.int64]:
        """Class index of each training scan."""
        return self._indices(self.training)

    @property
    def truth(self) -> NDArray[np.int64]:
        """Class index of each validation scan."""
        return self._indices(self.primary.held_out)

    @property
    def probabilities(self) -> Floats:
        """Of the validation scans, float64 [scans, classes]."""
        return self._probabilities(self.primary)

    @cached_property
    def cross_validated(self) -> Floats | None:
        """Of each training scan from a booster fitted without its patient; None where a class has a single patient."""
        return cross_validated_probabilities(self.features, self.training, self.classes, self.fit, seed=self.fit.seed)

    @property
    def calibration_scans(self) -> CalibrationScans:
        """The training scans that temperature and thresholds are fitted on."""
        return calibration_scans(self.training, self.features.unseen)

    def predict(self, labels: list[str]) -> Floats:
        """Return the probabilities of the validation scans of stage 2 fitted on other training labels."""
        return self._probabilities(self.fit(self.features, labels))

    def _indices(self, patients: pd.DataFrame) -> NDArray[np.int64]:
        return np.array([self.classes.index(label) for label in patients["label"]], dtype=np.int64)

    def _probabilities(self, result: ScanPredictions) -> Floats:
        return result.held_out[probability_columns(self.classes)].to_numpy(dtype=np.float64)


def collect_evidence(study: Study, options: EvidenceOptions) -> tuple[Evidence, dict[str, float]]:
    """Return the evidence for the primary stage 2, and the seconds that each analysis took."""
    seconds: dict[str, float] = {}

    def timed(name: str, analysis: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        start = time.perf_counter()
        result = analysis(*args, **kwargs)
        seconds[name] = time.perf_counter() - start
        return result

    permutation = timed("permutation test", _permutation_test, study, options)
    calibration = timed("calibration", _calibration, study, options)
    stability = timed(
        "stability",
        measure_stability,
        study.primary,
        study.features,
        study.classes,
        study.fit,
        options.repeats,
        refits=options.refits,
        seed=study.fit.seed,
    )
    methods, choice = timed("methods", _methods, study, options)
    evidence: Evidence = {
        "permutation_test": permutation,
        "calibration": calibration,
        "operating_point": _operating_point(study, options),
        "stability": stability,
        "methods": methods,
        "method_choice": choice,
        "audit": timed("shortcut audit", _audit, study),
    }
    return evidence, seconds


def _permutation_test(study: Study, options: EvidenceOptions) -> PermutationTest | None:
    labels, truth = study.training["label"].tolist(), study.truth.tolist()
    return permutation_test(study.predict, labels, truth, permutations=options.permutations, seed=study.fit.seed)


def _calibration(study: Study, options: EvidenceOptions) -> CalibrationEvidence | None:
    if study.cross_validated is None:
        return None
    return calibration_evidence(
        study.cross_validated,
        study.training_truth,
        study.probabilities,
        study.truth,
        study.classes,
        scans=study.calibration_scans,
        share=options.answer_share,
        seed=study.fit.seed,
    )


def _operating_point(study: Study, options: EvidenceOptions) -> OperatingPoint | None:
    label = threshold_class(options.threshold_class, study.classes)
    if label is None or study.cross_validated is None:
        return None
    return operating_point(
        study.cross_validated,
        study.training_truth,
        study.probabilities,
        study.truth,
        study.classes,
        scans=study.calibration_scans,
        label=label,
        sensitivity=options.threshold_sensitivity,
    )


def _methods(study: Study, options: EvidenceOptions) -> tuple[dict[str, MethodMetrics] | None, MethodChoice | None]:
    if not options.methods:
        return None, None
    return compare_methods(
        study.slices,
        study.fit.scans,
        study.classes,
        unseen=study.features.unseen,
        primary=options.primary_method,
        repeats=options.method_repeats,
        label=threshold_class(options.threshold_class, study.classes),
        sensitivity=options.threshold_sensitivity,
        seed=study.fit.seed,
        methods=study.fit.methods,
    )


def _audit(study: Study) -> ShortcutAudit | None:
    if study.shortcuts is None:
        return None
    return shortcut_audit(study.primary.patients, study.shortcuts, study.classes, seed=study.fit.seed)
