"""metrics.json of a study: its type, its writer and its readers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired

import pandas as pd
from typing_extensions import TypedDict

from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse
from cnr_iemn.evaluation.method_comparison import MethodChoice, MethodMetrics
from cnr_iemn.evaluation.near_duplicates import NearDuplicates
from cnr_iemn.evaluation.operating_point import OperatingPoint
from cnr_iemn.evaluation.permutation_test import PermutationTest
from cnr_iemn.evaluation.robustness.robustness_metrics import Robustness
from cnr_iemn.evaluation.scan_metrics import ScanMetrics
from cnr_iemn.evaluation.shortcut_audit import ShortcutAudit
from cnr_iemn.evaluation.subgroups.population import PopulationMetrics
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage2.calibration import CalibrationEvidence
from cnr_iemn.statistics.confidence_intervals import Estimate, Proportions
from cnr_iemn.statistics.metrics import Evaluation, NetworkSlices, SliceEvaluation
from cnr_iemn.statistics.paired_tests import Comparison
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.checksums import LIST, listed_files, require_listed
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.spreadsheet import people_csv

StabilityName = Literal["accuracy", "balanced_accuracy", "macro_auc"]
STABILITY_NAMES: tuple[StabilityName, ...] = ("accuracy", "balanced_accuracy", "macro_auc")


class Notice(TypedDict, total=False):
    """The line that heads every table of a phantom study; absent otherwise."""

    notice: str


class Identity(TypedDict):
    """The study that the metrics belong to. ``classes``: in the order of every matrix."""

    notice: NotRequired[str]
    schema_version: int
    cohort: str
    classes: list[str]


class Summary(TypedDict):
    """Mean, standard deviation (of a sample), 5% and 95%; None where unknown, or with too few patients to resample."""

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


class Replicate(TypedDict):
    """The metrics that stability compares, of one stage 2 on its validation scans."""

    accuracy: float | None
    balanced_accuracy: float | None
    macro_auc: float | None
    sensitivity: dict[str, float | None]


class Summaries(TypedDict):
    """A summary of each metric of ``Replicate``."""

    accuracy: Summary
    balanced_accuracy: Summary
    macro_auc: Summary
    sensitivity: dict[str, Summary]


class Refits(Summaries):
    """Of ``n`` fits of stage 2 on resampled training patients; the networks stay.

    ``changes``: share of validation scans whose class a refit changes; ``changes_any``: that at least one changes.
    """

    n: int
    changes: Summary
    changes_any: float


class Replicates(Summaries):
    """The study repeated, by tag or study, the primary one first."""

    replicates: dict[str, Replicate]


class Stability(TypedDict):
    """How the metrics vary with training patients, with seeds and with splits; None for what was not requested."""

    refits: Refits | None
    seeds: Replicates | None
    splits: Replicates | None


class Ablation(Evaluation):
    """The validation scans under one input ablation. ``slice_changes``, ``scan_changes``: share with another class.

    ``comparison``: the unaltered input against this one, with Holm's correction; None for the unaltered input itself.
    """

    intervals: Proportions
    slice_changes: float
    scan_changes: float
    comparison: Comparison | None


class Ablations(TypedDict):
    """``agreement``: share of slices that keep their saved class without an alteration. ``rows``: by ablation."""

    agreement: float
    n: int
    networks: int
    rows: dict[str, Ablation]


class Evidence(TypedDict):
    """Evidence for the primary stage 2; None for what was not requested or cannot be measured."""

    permutation_test: PermutationTest | None
    calibration: CalibrationEvidence | None
    operating_point: OperatingPoint | None
    clinical_use: ClinicalUse | None
    stability: Stability
    methods: dict[str, MethodMetrics] | None
    method_choice: MethodChoice | None
    audit: ShortcutAudit | None
    near_duplicates: NearDuplicates | None


class Description(Identity):
    """How stage 2 was fitted. ``features``: the primary feature mode. ``method``: the primary method.

    ``selected_on``: the set that chose the networks' checkpoints; None where nothing was selected. ``n_features``: the
    number of the paper's percentages, in features.parquet.
    """

    models: list[str]
    checkpoints: dict[str, str]
    features: str
    method: str
    selected_on: str | None
    slice_labels: str
    folds: int | None
    n_features: int


class Variant(ScanMetrics):
    """Stage 2 with the features of one mode. ``primary``: the mode on the command line."""

    primary: bool
    selected_on: str | None


class VariantMetrics(TypedDict):
    """Stage 2 by feature mode, and the primary one against the others."""

    variants: dict[str, Variant]
    variant_comparisons: dict[str, Comparison]


class BackboneMetrics(TypedDict):
    """Stage 2 on the features of one backbone, and the ensemble against each."""

    backbones: dict[str, Evaluation]
    comparisons: dict[str, Comparison]


class BaselineMetrics(TypedDict):
    """The baselines of scans, and the ensemble against each."""

    baselines: dict[str, Evaluation]
    baseline_comparisons: dict[str, Comparison]
    strongest_baseline: str


class SliceMetrics(TypedDict):
    """The labelled validation slices: each network's predictions, and the baselines."""

    slices: dict[str, NetworkSlices]
    slice_baselines: dict[str, SliceEvaluation]


class StudyMetrics(
    Description,
    ScanMetrics,
    Evidence,
    VariantMetrics,
    BackboneMetrics,
    BaselineMetrics,
    SliceMetrics,
    PopulationMetrics,
):
    """metrics.json of an ensemble: the primary stage 2 on the validation scans, its evidence, and its comparisons.

    Fractions are 0 to 1. ``contributions``: mean absolute contributions, log-odds, by class, model and 20 groups; None
    where the method has none.
    """

    contributions: dict[str, dict[str, list[float]]] | None
    ablations: Ablations | None
    robustness: Robustness | None


class _Decision(TypedDict):
    operating_point: OperatingPoint | None


class _Bootstrap(TypedDict):
    macro_auc: Estimate


class _Intervals(TypedDict):
    patient_bootstrap: _Bootstrap


class _ReplicateMetrics(TypedDict):
    accuracy: float
    balanced_accuracy: float
    sensitivity: dict[str, float | None]
    intervals: _Intervals


def write_metrics(folder: Path, patients: pd.DataFrame, metrics: Identity) -> None:
    """Write patients.csv and then metrics.json, each whole or not at all.

    ``patients``: one row a scan, index scan_id. ``metrics``: of a study or an external set.
    """
    table = patients.reset_index()
    table.insert(0, "schema_version", SCHEMA_VERSION)
    if "notice" in metrics:
        table.insert(0, "notice", metrics["notice"])
    write_text_atomic(folder / "patients.csv", people_csv(table))
    write_json(folder / "metrics.json", metrics)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all, in which every number is finite."""
    write_text_atomic(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def read_identity(folder: Path, *, again: str) -> Identity:
    """Return the study that the metrics.json of an ensemble, or of an external set, belongs to.

    ``again``: a sentence that says how to write the files anew. Raises RunError where metrics.json is damaged or of
    another version, or where it or patients.csv is not the file that the ensemble was written with.
    """
    if (folder / LIST).is_file():  # an external set has none
        listed = listed_files(folder, again=again)
        for name in ("metrics.json", "patients.csv"):
            require_listed(folder, name, listed, again=again)
    return read_json(folder / "metrics.json", Identity, again=again, extra="ignore")


def read_replicate(folder: Path, *, again: str) -> Replicate:
    """Return the metrics of an ensemble that stability compares. Raises RunError as ``read_identity`` does."""
    path = require_listed(folder, "metrics.json", listed_files(folder, again=again), again=again)
    metrics = read_json(path, _ReplicateMetrics, again=again, extra="ignore")
    return {
        "accuracy": metrics["accuracy"],
        "balanced_accuracy": metrics["balanced_accuracy"],
        "macro_auc": metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"],
        "sensitivity": metrics["sensitivity"],
    }


def read_operating_point(folder: Path, *, again: str) -> OperatingPoint | None:
    """Return the operating point of an ensemble, None where no class has one. Raises RunError as ``read_identity``."""
    listed = listed_files(folder, again=again)
    if "metrics.json" not in listed:  # of an earlier version, which listed less
        return None
    path = require_listed(folder, "metrics.json", listed, again=again)
    return read_json(path, _Decision, again=again, extra="ignore")["operating_point"]
