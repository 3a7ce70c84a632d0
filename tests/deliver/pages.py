"""Pages of scans, made by code from simulated answers."""

from typing import Any

import numpy as np

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.acquisition import UNKNOWN
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.key_slices import SIDE, key_slices
from cnr_iemn.deliver.scan_page import scan_page
from cnr_iemn.engine.answers import scan_answers
from cnr_iemn.engine.ensembles import Ensemble, Member
from cnr_iemn.engine.prediction import ScanSlices
from cnr_iemn.patients.contributions import Contributions
from cnr_iemn.patients.frozen import FrozenCalibration

CLASSES = ("Normal", "COVID-19", "CAP")
FROZEN = FrozenCalibration(1.7, 0.45, 0.9, 24, "three & four", "2021-06-30")
MEMBERS = tuple(
    Member(model, "torchvision", "seed0", "x.ckpt", "ab", size, "both", "32-true")
    for model, size in (("resnext50", 224), ("inception_v3", 299))
)
ENSEMBLE = Ensemble(
    "study", MEMBERS, CLASSES, PixelSettings(), False, "three & four", calibration=FROZEN,
    training_counts={"Normal": 12, "COVID-19": 9, "CAP": 3},
)  # fmt: skip
N_SLICES = 40


def slices(scan_id: str, **facts: Any) -> ScanSlices:
    """COVID-19 by both networks in slices 16 and 17, by far in 17; else Normal."""
    values = np.tile(np.array([0.8, 0.1, 0.1], np.float32), (N_SLICES, 1))
    values[16:18] = (0.1, 0.7, 0.2), (0.02, 0.9, 0.08)
    z_mm = np.arange(N_SLICES) * -5.0 + 20.25
    given = {"lung_litres": 4.2, "findings": (), "phantom": False, "grey_sha256": "9"} | facts
    return ScanSlices(scan_id, z_mm, networks=dict.fromkeys(MEMBERS, values), **given)


def prepared(scan: ScanSlices) -> PreparedScan:
    grey, lungs = np.full((N_SLICES, 48, 48), 180, np.uint8), np.zeros((N_SLICES, 48, 48), bool)
    lungs[4:36, 12:36, 6:20] = lungs[4:36, 12:36, 28:42] = True
    grey[lungs] = 30
    facts = scan.z_mm, scan.lung_litres, scan.findings, scan.phantom
    return PreparedScan(grey, lungs, (5.0, 0.7, 0.7), *facts, "50", UNKNOWN)


def gone_by(scan_id: str, answered: int = 1) -> Contributions:
    by_group = np.zeros((1, 3, 2, 20))
    by_group[0, answered, 0, 8] = 2.0
    by_group[0, 2, 1, 19] = 0.6
    return Contributions((scan_id,), CLASSES, ("resnext50", "inception_v3"), by_group, np.array([0.3, 0.1, -0.2]))


def page_of(
    scan_id: str = "P001",
    probabilities: tuple[float, float, float] = (0.05, 0.9, 0.05),
    ensemble: Ensemble = ENSEMBLE,
    maps: bool = True,
    raised: float = 0.5,
    **facts: Any,
) -> str:
    scan, found = slices(scan_id, **facts), gone_by(scan_id)
    (answer,) = scan_answers([scan], np.array([probabilities]), found, ensemble)
    sets = (np.stack(list(scan.probabilities.values())),)
    keys = key_slices(found.by_group[0, 1], sets, 1)
    shown = np.full((len(keys), SIDE, SIDE), raised, np.float32) if maps else None
    return scan_page(answer, found, sets, prepared(scan), ensemble, keys, shown)
