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

UNCODED = "no code"
"""Of a refusal that an earlier version wrote down without one."""


class MissingScan(TypedDict):
    """A labelled scan without a prediction; ``refused``: the reason, ``code``: for programs."""

    label: str
    refused: str
    code: str


class ExternalCalibration(TypedDict):
    """The study's temperature and threshold on external scans. ``optimistic``: None where an old file lacks it."""

    temperature: float
    learnt_on: int
    optimistic: bool | None
    before: Calibration
    after: Calibration
    undecided: Undecided


class AnswerCounts(TypedDict):
    """What became of the scans of a set: ``n_labelled`` were given, ``n_predicted`` of them are answered and rated.

    ``refused``: the others, by ``RefusalCode``, the most frequent first.
    """

    n_labelled: int
    n_predicted: int
    refused: dict[str, int]


class _Intervals(TypedDict):
    wilson: Proportions


class ExternalAccuracy(AnswerCounts):
    """The metrics of an external set that report and model card repeat.

    ``intervals``: of the answered scans. ``missing_as_wrong``: with the refused ones. ``n_phantom_scans``: of the
    answered ones; a set that is not of the study's kind has figures without a meaning.
    """

    method_sha256: str
    phantom_study: bool
    n_phantom_scans: int
    set: str
    intervals: _Intervals
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


class ExternalSetMetrics(AnswerCounts, ScanMetrics):
    """One external set; all but ``missing_as_wrong`` is measured on the scans with a prediction.

    ``missing``: scans without a prediction, by scan_id.
    """

    set: str
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
