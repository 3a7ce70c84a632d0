"""The result for one new scan: its entry in predictions.json, what its other files are made from, and its summary."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.constants import notice_for
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.errors import RefusalCode
from cnr_iemn.inference.explanation import Explanation
from cnr_iemn.inference.input_checks import Source
from cnr_iemn.stage2.ensemble import Ensemble
from cnr_iemn.stage2.new_scans import NewScan
from cnr_iemn.stage2.out_of_fold import ScanArray
from cnr_iemn.stage2.shap_values import Contributions
from cnr_iemn.utils.text import visible

_LONGEST_STEM = 80


class SlicePrediction(TypedDict):
    """One slice. ``slice_index``: 0-based, head first. ``probabilities``: by model, then class."""

    slice_index: int
    z_mm: float
    probabilities: dict[str, dict[str, float]]


class DicomFiles(TypedDict):
    """Paths below the output folder, or the reason why there are none and its ``RefusalCode``."""

    files: list[str]
    refused: str | None
    code: RefusalCode | None


ScanPrediction = TypedDict(
    "ScanPrediction",
    {
        "scan": str,
        "phantom": bool,
        "class": str,
        "undecided": bool | None,  # None without calibration, as calibrated
        "calibrated": dict[str, float] | None,
        "probabilities": dict[str, float],
        "n_slices": int,
        "lung_litres": float,
        "findings": list[str],
        "contributions": dict[str, Any] | None,  # Contributions.of_scan
        "page": str | None,
        "dicom": DicomFiles | None,
        "slices": list[SlicePrediction],
    },
)
"""The entry of one scan in predictions.json (docs/guide/prediction.md)."""


class PredictionDocument(TypedDict):
    """predictions.json."""

    notice: NotRequired[str]
    schema_version: int
    study: str
    method: str
    models: list[str]
    classes: list[str]
    calibration: dict[str, Any] | None
    engine: str
    scans: list[ScanPrediction]
    refused: dict[str, str]
    codes: dict[str, str]  # RefusalCode by refused scan


@dataclass(frozen=True)
class Refusal:
    """A scan that was not classified. ``reason``: a sentence that begins with its id; ``code``: it for programs."""

    scan_id: str
    reason: str
    code: RefusalCode


@dataclass(frozen=True)
class ScanResult:
    """A classified scan.

    Attributes:
        source: What its pixels were read from.
        prepared: Its pixels and lung mask.
        probabilities: What the networks say of its slices, as stage 2 reads it.
        sets: Class probabilities by set of networks: one for each fold, or one in all.
        features: The trunks' features of its slices by network, float16 [n_slices, features].
        contributions: Of stage 2, of this scan alone; None where the method has none.
        prediction: Its entry in predictions.json; ``page`` and ``dicom`` are None.
        explanation: Key slices and their Grad-CAM maps; None where no output needs them.
    """

    source: Source
    prepared: PreparedScan
    probabilities: NewScan
    sets: tuple[ScanArray, ...]
    features: Mapping[str, NDArray[np.float16]]
    contributions: Contributions | None
    prediction: ScanPrediction
    explanation: Explanation | None

    @property
    def scan_id(self) -> str:
        """The scan's id."""
        return self.prediction["scan"]


def scan_prediction(
    scan_id: str,
    prepared: PreparedScan,
    *,
    sets: Sequence[ScanArray],
    probabilities: NDArray[np.float64],
    contributions: Contributions | None,
    ensemble: Ensemble,
) -> ScanPrediction:
    """Return the entry of a scan in predictions.json.

    Args:
        scan_id: The scan's id.
        prepared: The scan.
        sets: Class probabilities from each set of networks, float32 [models, n_slices, classes].
        probabilities: Of stage 2, float64 [classes].
        contributions: Of stage 2; None where the method has none.
        ensemble: Which made the prediction.
    """
    classes, calibration = ensemble.classes, ensemble.calibration
    rows = probabilities[None]
    by_slice = np.mean(sets, axis=0)  # [models, n_slices, classes], the mean over the folds
    return {
        "scan": scan_id,
        "phantom": prepared.phantom,
        "class": classes[int(probabilities.argmax())],
        "undecided": None if calibration is None else bool(calibration.undecided(rows)[0]),
        "calibrated": None if calibration is None else _by_class(classes, calibration.calibrated(rows)[0]),
        "probabilities": _by_class(classes, probabilities),
        "n_slices": len(prepared.grey),
        "lung_litres": prepared.lung_litres,
        "findings": list(prepared.findings),
        "contributions": None if contributions is None else contributions.of_scan(scan_id),
        "page": None,
        "dicom": None,
        "slices": [
            {
                "slice_index": k,
                "z_mm": float(prepared.z_mm[k]),
                "probabilities": {
                    model: _by_class(classes, values[k])
                    for model, values in zip(ensemble.models, by_slice, strict=True)
                },
            }
            for k in range(len(prepared.grey))
        ],
    }


def _by_class(classes: tuple[str, ...], values: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip(classes, values.tolist(), strict=True))


def notice_of(prediction: ScanPrediction, ensemble: Ensemble) -> str | None:
    """Return the notice that replaces the class where the study or the scan is synthetic, else None."""
    return notice_for(study=ensemble.phantom, scans=prediction["phantom"])


def result_sentence(prediction: ScanPrediction, ensemble: Ensemble) -> str:
    """Return the result in a sentence: the class, that it is undecided, or a notice where anything is synthetic."""
    notice, predicted, calibration = notice_of(prediction, ensemble), prediction["class"], ensemble.calibration
    if notice is not None:
        return f"{notice[0].upper()}{notice[1:]}."
    if calibration is None or prediction["calibrated"] is None:
        probability = prediction["probabilities"][predicted]
        return f"This scan most resembles {predicted}: probability {probability:.2f}, not calibrated."
    probability = prediction["calibrated"][predicted]
    origin = f"calibrated on {calibration.n} training scans of {calibration.cohort}, {calibration.date}"
    if prediction["undecided"]:
        return (
            f"Undecided: the most probable class, {predicted}, has a probability of {probability:.2f} ({origin}), "
            f"below this study's threshold of {calibration.threshold:.2f}."
        )
    return f"This scan most resembles {predicted}: probability {probability:.2f}, {origin}."


def result_line(prediction: ScanPrediction, ensemble: Ensemble) -> str:
    """Return the line that the terminal shows for a scan, with calibrated probabilities where there are any."""
    probabilities = prediction["calibrated"] or prediction["probabilities"]
    figures = "  ".join(f"{label} {value:.3f}" for label, value in probabilities.items())
    predicted = prediction["class"]
    label = f"undecided (most probable: {predicted})" if prediction["undecided"] else f"predicted {predicted}"
    notice = notice_of(prediction, ensemble)
    head = label if notice is None else f"{notice}; {label}"
    findings = f"  ({'; '.join(prediction['findings'])})" if prediction["findings"] else ""
    return visible(f"{prediction['scan']}: {head}  {figures}  {prediction['n_slices']} slices{findings}")


def calibration_sentence(ensemble: Ensemble) -> str:
    """Return a sentence on where the calibrated probabilities come from."""
    calibration = ensemble.calibration
    if calibration is None:
        return f"Probabilities are those of {ensemble.method}, not calibrated: the ensemble has no temperature."
    optimistic = ", some of which trained the networks: optimistic" if calibration.optimistic else ""
    return (
        f"Probabilities calibrated (temperature {calibration.temperature:.2f}) on {calibration.n} training scans of "
        f"{calibration.cohort} on {calibration.date}{optimistic}. Predictions below {calibration.threshold:.3f} are "
        f"marked undecided; the threshold is set to decide {100 * calibration.answer_share:.0f}% of new scans."
    )


def file_stem(scan_id: str) -> str:
    """Return the name of a scan's files: its id if that is a plain file name, else its plain characters and a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", scan_id).lstrip(".-")[:_LONGEST_STEM]
    if plain and plain == scan_id:
        return plain
    return f"{plain or 'scan'}-{hashlib.sha256(scan_id.encode()).hexdigest()[:8]}"
