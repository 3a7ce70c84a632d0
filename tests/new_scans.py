"""New scans and a trained ensemble for them, made by code from simulated predictions."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import xgboost

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.schemas import NetworkId, NewScansMetadata
from cnr_iemn.stage2.booster import save_booster, train_booster
from cnr_iemn.stage2.calibration import Calibrator
from cnr_iemn.stage2.ensemble import Ensemble, Member, write_ensemble
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.stage2.new_scans import NewScan, NewScans
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.checksums import file_digests
from tests.builders import FakeScan, make_predictions, make_scans

MODELS = ("resnext50", "densenet161")
FROZEN = Calibrator(1.7, 0.55, 0.9, 24, "three", "2021-06-30")


def make_new_scans(
    scans: Mapping[str, FakeScan],
    *,
    models: Sequence[str] = MODELS,
    folds: Sequence[int | None] = (None,),
    skill: float = 0.8,
    phantom: bool = False,
    phantom_scans: bool = False,
    refused: Mapping[str, str] | None = None,
    codes: Mapping[str, str] | None = None,
    method_sha256: str = "b005",
    seed: int = 0,
) -> NewScans:
    """Return simulated predictions of these scans by each model, and of each fold where there are some."""
    networks = tuple(
        NetworkId(model, fold, f"{zlib.crc32(model.encode()) + (fold or 0):064x}") for fold in folds for model in models
    )
    seeds = [seed + 100 * (network.fold or 0) for network in networks]
    made = [make_predictions(each.model, scans, seed=s, skill=skill) for each, s in zip(networks, seeds, strict=True)]
    values = {
        scan_id: NewScan(
            np.arange(scan.n_slices, 0, -1.0),
            phantom_scans,
            f"grey of {scan_id}",
            np.stack([each.probabilities[(each.table["scan_id"] == scan_id).to_numpy()] for each in made]),
        )
        for scan_id, scan in scans.items()
    }
    origin = "study", "two", SPGC_CLASSES, networks, method_sha256, dict(refused or {}), phantom
    return NewScans(values, NewScansMetadata(*origin, codes=dict(codes or {})))


def write_study(runs: Path, *, calibration: Calibrator | None = FROZEN, **ensemble: object) -> tuple[str, Path]:
    """Write ensemble.json and booster.ubj of study ``study``, ensemble ``two``; return the booster's hash, folder."""
    folder = runs / "study" / "ensembles" / "two"
    save_booster(folder / "booster.ubj", _booster())
    members = tuple(
        Member(network.model, "torchvision", "seed0", "x.ckpt", network.checkpoint_sha256, 224, "both", "32")
        for network in make_new_scans(make_scans(0, 1)).metadata.networks
    )
    pixels = PixelSettings(size=336, lungs="pleura")
    made = Ensemble("study", members, SPGC_CLASSES, pixels, False, "three", calibration=calibration)
    made = replace(made, files=file_digests(folder))
    write_ensemble(folder, replace(made, **ensemble))  # type: ignore[arg-type]
    return sha256_of_file(folder / "booster.ubj"), folder


@cache
def _booster() -> xgboost.Booster:
    training = make_scans(8, 0)
    features = group_features({model: make_predictions(model, training, seed=7, skill=0.7) for model in MODELS})
    labels = [training[scan_id].label for scan_id in features.index]
    return train_booster(features, labels, SPGC_CLASSES, rounds=15)
