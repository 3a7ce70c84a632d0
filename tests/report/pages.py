"""Results for scans and their pages, made by code from simulated predictions."""

from dataclasses import replace
from typing import Any

import numpy as np

from cnr_iemn.ct.io.acquisition import UNKNOWN
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.inference.explanation import Explanation, key_slices
from cnr_iemn.inference.scan_result import ScanResult, scan_prediction
from cnr_iemn.inference.slice_images import SIDE
from cnr_iemn.report.scan_report import scan_page
from cnr_iemn.stage2.calibration import Calibrator
from cnr_iemn.stage2.ensemble import Ensemble, Member
from cnr_iemn.stage2.new_scans import NewScan
from cnr_iemn.stage2.shap_values import Contributions

CLASSES = ("Normal", "COVID-19", "CAP")
CALIBRATION = Calibrator(1.7, 0.45, 0.9, 24, "three & four", "2021-06-30")
MEMBERS = tuple(
    Member(model, "torchvision", "seed0", "x.ckpt", "ab", size, "both", "32")
    for model, size in (("resnext50", 224), ("inception_v3", 299))
)
ENSEMBLE = Ensemble(
    "study", MEMBERS, CLASSES, PixelSettings(), False, "three & four", calibration=CALIBRATION,
    training_counts={"Normal": 12, "COVID-19": 9, "CAP": 3}, files={"booster.ubj": "ab" * 32},
)  # fmt: skip
N_SLICES = 40


def prepared_scan(**changes: Any) -> PreparedScan:
    grey, lungs = np.full((N_SLICES, 48, 48), 180, np.uint8), np.zeros((N_SLICES, 48, 48), bool)
    lungs[4:36, 12:36, 6:20] = lungs[4:36, 12:36, 28:42] = True
    grey[lungs] = 30
    z_mm = np.arange(N_SLICES) * -5.0 + 20.25
    return replace(PreparedScan(grey, lungs, (5.0, 0.7, 0.7), z_mm, 4.2, (), False, "50", UNKNOWN), **changes)


def slice_probabilities() -> np.ndarray:
    """COVID-19 by both networks in slices 16 and 17, by far in 17; else Normal."""
    values = np.tile(np.array([0.8, 0.1, 0.1], np.float32), (N_SLICES, 1))
    values[16:18] = (0.1, 0.7, 0.2), (0.02, 0.9, 0.08)
    return np.stack([values] * len(MEMBERS))


def shap_of(scan_id: str, predicted: int = 1) -> Contributions:
    by_group = np.zeros((1, 3, 2, 20))
    by_group[0, predicted, 0, 8] = 2.0
    by_group[0, 2, 1, 19] = 0.6
    return Contributions((scan_id,), CLASSES, ("resnext50", "inception_v3"), by_group, np.array([0.3, 0.1, -0.2]))


def result_of(
    scan_id: str = "P001",
    probabilities: tuple[float, ...] = (0.05, 0.9, 0.05),
    ensemble: Ensemble = ENSEMBLE,
    *,
    maps: bool = True,
    heat: float = 0.5,
    **changes: Any,
) -> ScanResult:
    """The result for a scan whose preparation has these ``changes``. ``heat``: of the whole heatmap."""
    prepared, networks = prepared_scan(**changes), slice_probabilities()
    shap = replace(shap_of(scan_id), classes=ensemble.classes)
    keys = key_slices(shap.by_group[0, 1], (networks,), 1)
    heatmaps = np.full((len(keys), SIDE, SIDE), heat, np.float32) if maps else None
    prediction = scan_prediction(
        scan_id,
        prepared,
        sets=(networks,),
        probabilities=np.array(probabilities),
        contributions=shap,
        ensemble=ensemble,
    )
    return ScanResult(
        source=None,  # type: ignore[arg-type]  # no page reads it
        prepared=prepared,
        probabilities=NewScan(prepared.z_mm, prepared.phantom, "9", networks),
        sets=(networks,),
        features={},
        contributions=shap,
        prediction=prediction,
        explanation=Explanation(keys, heatmaps),
    )


def page_of(scan_id: str = "P001", ensemble: Ensemble = ENSEMBLE, **options: Any) -> str:
    return scan_page(result_of(scan_id, ensemble=ensemble, **options), ensemble)
