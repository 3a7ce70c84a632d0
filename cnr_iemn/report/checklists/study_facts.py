"""What a run holds about itself: the only source of the answers to checklists."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cnr_iemn.data.demographics.group_table import LEAST_SCANS
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.evaluation.clinical.analysis_plan import PlanRecord, read_record
from cnr_iemn.evaluation.external_metrics import ExternalAccuracy, read_external_accuracies
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.training_facts import TrainingFacts
from cnr_iemn.report.quality_report import is_doubtful
from cnr_iemn.schemas import READER, VALIDATION
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.provenance import StudyProvenance
from cnr_iemn.utils.atomic_io import sha256_of_file


@dataclass(frozen=True)
class CohortFacts:
    """The scans. ``counts``: by split, then class. ``left_out``: scans of data.exclude. ``phantom``: synthetic scans.

    ``n_network_scans``: training scans of which a labelled slice trained the networks. ``weak_labels``: slices that no
    reader labelled have their scan's class. ``pseudo_labels``, ``labels_permuted``: of ``TrainingFacts``.
    """

    name: str
    reader: str
    phantom: bool
    n_patients: int
    counts: Mapping[str, Mapping[str, int]]
    left_out: int
    n_network_scans: int
    weak_labels: bool
    pseudo_labels: bool = False
    labels_permuted: bool = False

    @property
    def n_scans(self) -> int:
        """Scans of all splits."""
        return sum(sum(classes.values()) for classes in self.counts.values())


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a quantity of the ``n`` scans that state it; ``low``: 25%, ``high``: 75%."""

    name: str
    n: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class QualityFacts:
    """Findings of preparation: scans without one, and scans with a lung mask in doubt, of ``n``."""

    n: int
    n_without_finding: int
    n_doubtful: int


@dataclass(frozen=True)
class ErrorFacts:
    """Wrongly predicted validation scans, by true and predicted class, of ``n``."""

    n: int
    pairs: Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class StudyFacts:
    """Every field is None where the run does not know it or has not measured it.

    ``external``: sets that this very fit was scored on. ``n_networks``: networks of the ensemble, folds included.
    """

    metrics: StudyMetrics | None = None
    provenance: StudyProvenance | None = None
    cohort: CohortFacts | None = None
    pixels: PixelSettings | None = None
    acquisition: tuple[Spread, ...] | None = None
    quality: QualityFacts | None = None
    training: tuple[TrainingFacts, ...] | None = None
    errors: ErrorFacts | None = None
    external: tuple[ExternalAccuracy, ...] | None = None
    plan: PlanRecord | None = None


def gather_facts(
    folder: Path, runs: EnsembleRuns, results: Results, store: SliceStore, provenance: StudyProvenance
) -> StudyFacts:
    """Return what the runs, their aggregation and the slice store hold. ``folder``: the ensemble's."""
    patients = results.patients
    scan_ids = [str(scan_id) for scan_id in patients.index]
    scans = [store.scan(scan_id) for scan_id in scan_ids]
    held_out = patients[patients["split"] == VALIDATION]
    wrong = held_out[held_out["predicted"] != held_out["label"]]
    method_file = folder / METHODS[results.metrics["method"]].file
    fitted = sha256_of_file(method_file) if method_file.is_file() else None
    training = tuple(TrainingFacts.read(run) for run, _ in runs.networks)
    return StudyFacts(
        metrics=results.metrics,
        provenance=provenance,
        cohort=_cohort_facts(runs, patients, training[0], provenance),
        pixels=store.settings,
        acquisition=_spreads(store, scan_ids),
        quality=QualityFacts(
            len(scans), sum(not scan.findings for scan in scans), sum(is_doubtful(scan) for scan in scans)
        ),
        training=training,
        errors=ErrorFacts(len(held_out), _pair_counts(wrong)),
        external=tuple(read_external_accuracies(folder, fitted)),
        plan=read_record(folder),
    )


def _cohort_facts(
    runs: EnsembleRuns, patients: pd.DataFrame, training: TrainingFacts, provenance: StudyProvenance
) -> CohortFacts:
    metadata = next(iter(runs.predictions.values())).metadata
    counts = {
        str(split): {name: int((rows["label"] == name).sum()) for name in metadata.classes}
        for split, rows in patients.groupby("split")
    }
    return CohortFacts(
        name=training.cohort,
        reader=training.reader,
        phantom=metadata.phantom,
        n_patients=int(patients["patient_id"].nunique()),
        counts=counts,
        left_out=len(provenance["left_out"]),
        n_network_scans=len(metadata.training_scan_ids),
        weak_labels=metadata.slice_labels != READER,
        pseudo_labels=training.pseudo_labels,
        labels_permuted=training.labels_permuted,
    )


def _pair_counts(wrong: pd.DataFrame) -> dict[tuple[str, str], int]:
    return dict(Counter(zip(wrong["label"].astype(str), wrong["predicted"].astype(str), strict=True)))


def _spreads(store: SliceStore, scan_ids: Sequence[str]) -> tuple[Spread, ...]:
    """Return the spread of each acquisition value that enough scans state.

    No extremes, and LEAST_SCANS scans beyond each quartile: the subgroups merge a rare tube voltage, and this must not
    tell it.
    """
    scans = [store.scan(scan_id) for scan_id in scan_ids]
    headers = [store.acquisition(scan_id) for scan_id in scan_ids]
    values = {
        "slices": [float(scan.n_slices) for scan in scans],
        "slice distance, mm": [scan.spacing_mm[0] for scan in scans],
        "slice thickness, mm": [header.slice_thickness_mm for header in headers],
        "field of view, mm": [header.field_of_view_mm for header in headers],
        "tube voltage, kV": [header.kvp for header in headers],
        "tube current, mA": [header.tube_current_ma for header in headers],
    }
    spreads = []
    for name, numbers in values.items():
        array = np.array([number for number in numbers if np.isfinite(number)])
        if len(array) >= 4 * LEAST_SCANS:
            low, median, high = (float(value) for value in np.quantile(array, [0.25, 0.5, 0.75]))
            spreads.append(Spread(name, len(array), median, low, high))
    return tuple(spreads)
