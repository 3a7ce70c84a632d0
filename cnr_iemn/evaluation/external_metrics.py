"""metrics.json of an external set: its type and its reader."""

from pathlib import Path

from typing_extensions import TypedDict

from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse
from cnr_iemn.evaluation.scan_metrics import ScanMetrics
from cnr_iemn.evaluation.study_metrics import Identity
from cnr_iemn.stage2.abstention import Undecided
from cnr_iemn.stage2.calibration_metrics import Calibration
from cnr_iemn.statistics.confidence_intervals import Proportions
from cnr_iemn.utils.json_io import read_json


class MissingScan(TypedDict):
    """A labelled scan without a prediction; ``refused``: the reason."""

    label: str
    refused: str


class ExternalCalibration(TypedDict):
    """The study's temperature and threshold on external scans. ``optimistic``: None where an old file lacks it."""

    temperature: float
    learnt_on: int
    optimistic: bool | None
    before: Calibration
    after: Calibration
    undecided: Undecided


class ExternalAccuracy(TypedDict):
    """The metrics of an external set that the model card repeats. ``missing_as_wrong``: scans without a prediction."""

    method_sha256: str
    set: str
    n_labelled: int
    n_predicted: int
    missing_as_wrong: Proportions


class ExternalSource(Identity):
    """The ensemble and the files of an external validation. ``predictions``, ``labels``: SHA-256 by path."""

    study: str
    ensemble: str
    method: str
    models: list[str]
    features: str
    phantom_study: bool
    method_sha256: str
    predictions: dict[str, str]
    labels: dict[str, str]


class ExternalSetMetrics(ScanMetrics):
    """One external set; all but ``missing_as_wrong`` is measured on the scans with a prediction.

    ``missing``: scans without a prediction, by scan_id.
    """

    set: str
    n_labelled: int
    n_predicted: int
    missing: dict[str, MissingScan]
    missing_as_wrong: Proportions
    calibration: ExternalCalibration | None


class ExternalMetrics(ExternalSource, ExternalSetMetrics):
    """metrics.json of an external set.

    ``clinical_use``: of the study's operating point; None without one, or where the set lacks its class or any other.
    """

    n_phantom_scans: int
    clinical_use: ClinicalUse | None


def read_external_accuracies(folder: Path, method_sha256: str | None) -> list[ExternalAccuracy]:
    """Return the accuracies of the external sets that this fit of stage 2 was scored on. ``folder``: the ensemble's."""
    scored = []
    for path in sorted(folder.glob("external/*/metrics.json")):
        again = f"Score the set again (aggregate.py evaluate=), or remove {path.parent}."
        scored.append(read_json(path, ExternalAccuracy, again=again, extra="ignore"))
    return [metrics for metrics in scored if metrics["method_sha256"] == method_sha256]
