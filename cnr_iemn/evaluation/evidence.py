"""Evidence for stage 2: permutation test, calibration, stability, other methods, shortcut audit, near-duplicates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import BOOSTER, BOOSTER_METHOD, method_name
from cnr_iemn.data.demographics.group_table import indicators
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse, clinical_use
from cnr_iemn.evaluation.method_comparison import MethodChoice, MethodMetrics, compare_methods
from cnr_iemn.evaluation.near_duplicates import NearDuplicates, find_near_duplicates
from cnr_iemn.evaluation.operating_point import AUTO, OperatingPoint, operating_point, threshold_class
from cnr_iemn.evaluation.permutation_test import PermutationTest, permutation_test
from cnr_iemn.evaluation.shortcut_audit import ShortcutAudit, shortcut_audit
from cnr_iemn.evaluation.stability import Repeats, measure_stability
from cnr_iemn.evaluation.study_metrics import Evidence
from cnr_iemn.evaluation.subgroups.population import shared_groups
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage2.calibration import (
    CalibrationEvidence,
    CalibrationScans,
    calibration_evidence,
    calibration_scans,
    cross_validated_probabilities,
)
from cnr_iemn.stage2.calibration_metrics import with_temperature
from cnr_iemn.stage2.methods.base import Method
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import SliceSets, StudyScans
from cnr_iemn.stage2.scan_predictions import ScanPredictions, fit_and_predict

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
        primary_method: ``booster`` (the paper's) or one of ``constants.method_names``.
        threshold_class, threshold_sensitivity: Of the operating point.
        prevalences: Of that class among new scans, for the counts to expect there.
        refits: Of stage 2 on resampled training patients; 0 for none.
        repeats: The study with other seeds or splits.
    """

    permutations: int = 0
    answer_share: float = 0.9
    methods: bool = False
    method_repeats: int = 3
    primary_method: str = BOOSTER
    threshold_class: str | None = AUTO
    threshold_sensitivity: float = 0.9
    prevalences: tuple[float, ...] = ()
    refits: int = 0
    repeats: Repeats = field(default_factory=Repeats)

    @classmethod
    def of(cls, settings: object, repeats: Repeats) -> "EvidenceOptions":
        """Return the options that settings hold under the same names."""
        names = {option.name for option in fields(cls)} - {"repeats"}
        return cls(repeats=repeats, **{name: getattr(settings, name) for name in names})

    @property
    def primary_name(self) -> str:
        """The primary method's name in the table of methods."""
        return method_name(self.primary_method)


@dataclass(frozen=True)
class Stage2Fit:
    """How stage 2 is fitted.

    ``table``: patient, split and label, index scan_id. ``classes``: in the order of the probabilities. ``methods``: all
    by name, ``name`` the primary one. ``seed``: of the method.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)
    name: str = BOOSTER_METHOD
    seed: int = 0

    @property
    def method(self) -> Method:
        """The primary method."""
        return self.methods[self.name]

    def __call__(self, scans: StudyScans, labels: list[str] | None = None) -> ScanPredictions:
        """Fit on the training scans. ``labels``: in place of theirs, in their order."""
        return fit_and_predict(self.method, scans, self.table, seed=self.seed, labels=labels)


@dataclass(frozen=True)
class Study:
    """What all evidence starts from: the primary stage 2 and its scans.

    ``slices``: every scan's, as the networks predict them. ``features``: None for no audit.
    """

    fit: Stage2Fit
    primary: ScanPredictions
    scans: StudyScans
    slices: SliceSets
    features: ScanFeatures | None

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.fit.classes

    @property
    def training(self) -> pd.DataFrame:
        """The rows of the training scans, in their order."""
        return self.primary.patients.loc[list(self.scans.training_ids)]

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
        """Of each training scan from stage 2 fitted without its patient; None where a class has a single patient."""
        return cross_validated_probabilities(self.scans, self.training, self.fit, seed=self.fit.seed)

    @property
    def calibration_scans(self) -> CalibrationScans:
        """The training scans that temperature and thresholds are fitted on."""
        return calibration_scans(self.training, self.scans.unseen)

    def predict(self, labels: list[str]) -> Floats:
        """Return the probabilities of the validation scans of stage 2 fitted on other training labels."""
        return self._probabilities(self.fit(self.scans, labels))

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
        study.scans,
        study.fit,
        options.repeats,
        refits=options.refits,
        seed=study.fit.seed,
    )
    methods, choice = timed("methods", _methods, study, options)
    point = _operating_point(study, options)
    evidence: Evidence = {
        "permutation_test": permutation,
        "calibration": calibration,
        "operating_point": point,
        "clinical_use": _clinical_use(study, options, calibration, point),
        "stability": stability,
        "methods": methods,
        "method_choice": choice,
        "audit": timed("shortcut audit", _audit, study),
        "near_duplicates": timed("near-duplicates", _near_duplicates, study),
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


def _clinical_use(
    study: Study, options: EvidenceOptions, calibration: CalibrationEvidence | None, point: OperatingPoint | None
) -> ClinicalUse | None:
    calibrated = None if calibration is None else with_temperature(study.probabilities, calibration["temperature"])
    return clinical_use(
        study.probabilities,
        study.truth,
        study.classes,
        point,
        calibrated=calibrated,
        prevalences=options.prevalences,
    )


def _methods(study: Study, options: EvidenceOptions) -> tuple[dict[str, MethodMetrics] | None, MethodChoice | None]:
    if not options.methods:
        return None, None
    return compare_methods(
        study.slices,
        study.fit.table,
        study.scans.axes,
        unseen=study.scans.unseen,
        primary=options.primary_name,
        repeats=options.method_repeats,
        label=threshold_class(options.threshold_class, study.classes),
        sensitivity=options.threshold_sensitivity,
        seed=study.fit.seed,
        methods=study.fit.methods,
    )


def _audit(study: Study) -> ShortcutAudit | None:
    if study.features is None:
        return None
    patients = study.primary.patients
    groups = indicators(shared_groups(patients, study.features, study.classes))
    shortcuts = study.features.shortcuts.loc[patients.index].join(groups)
    return shortcut_audit(patients, shortcuts, study.classes, seed=study.fit.seed)


def _near_duplicates(study: Study) -> NearDuplicates | None:
    return None if study.features is None else find_near_duplicates(study.primary.patients, study.features.volumes)
