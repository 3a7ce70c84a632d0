"""Synthetic inputs shared by tests, made by code: `from tests.builders import make_predictions`."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnr_iemn.constants import N_GROUPS, N_REGIONS, SPGC_CLASSES
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.schemas import (
    TRAINING,
    VALIDATION,
    PredictionMetadata,
    probability_columns,
    region_columns,
)
from cnr_iemn.stage1.training.run_record import RunScans
from cnr_iemn.stage2.baselines import ScanSummary

NO_SCANS: dict[str, dict[str, str]] = {"pixels": {}, "labels": {}, "roles": {}}
"""``scans`` of run.json, of a run whose pixels no test compares."""


@dataclass(frozen=True)
class FakeScan:
    """A scan of which only the facts matter. The middle third is infected in all classes but the first."""

    label: str
    split: str = TRAINING
    n_slices: int = 40
    slice_labelled: bool = True
    patient_id: str | None = None
    fold: int | None = None

    def slice_truth(self, classes: Sequence[str]) -> list[str]:
        infected = range(self.n_slices // 3, 2 * self.n_slices // 3)
        return [self.label if index in infected else classes[0] for index in range(self.n_slices)]


def make_scans(
    training: int = 6, validation: int = 3, *, classes: Sequence[str] = SPGC_CLASSES, n_slices: int = 40
) -> dict[str, FakeScan]:
    """Return `training` + `validation` scans of every class, named `<class>-<number>`, of about `n_slices` slices."""
    splits = [TRAINING] * training + [VALIDATION] * validation
    return {
        f"{label}-{number:03d}": FakeScan(label, split, n_slices + number % 4)
        for label in classes
        for number, split in enumerate(splits)
    }


def make_predictions(
    model: str = "resnext50",
    scans: Mapping[str, FakeScan] | None = None,
    *,
    seed: int = 0,
    skill: float = 0.9,
    classes: Sequence[str] = SPGC_CLASSES,
    **metadata: object,
) -> Predictions:
    """Return valid predictions of a model that names a slice's true class with probability `skill`, else any.

    The same arguments give the same values; models differ in their errors. `metadata` replaces single fields.
    """
    scans = make_scans(classes=classes) if scans is None else scans
    rng = np.random.default_rng([seed, zlib.crc32(model.encode())])
    table = pd.concat([_rows(scan_id, scan, classes, skill, rng) for scan_id, scan in scans.items()], ignore_index=True)
    values = {
        "model": model,
        "classes": tuple(classes),
        "tag": f"seed{seed}",
        "seed": seed,
        "precision": "32",
        "checkpoint": "best",
        "checkpoint_sha256": f"{zlib.crc32(model.encode()):064x}",
        "store": "5707e",
        "split_sha256": "5b117",
        "scans_sha256": RunScans(**NO_SCANS).sha256,
        "training_scan_ids": tuple(name for name, scan in scans.items() if _trains(scan)),
        "phantom": False,
    }
    return Predictions(table, PredictionMetadata(**{**values, **metadata}))


def make_summaries(scans: Mapping[str, FakeScan], *, seed: int = 0) -> dict[str, ScanSummary]:
    """Return measurements that know nothing of the class."""
    rng = np.random.default_rng(seed)
    return {
        scan_id: ScanSummary(
            litres=float(rng.uniform(2.5, 6.0)),
            mean_hu=float(rng.normal(-800, 20)),
            histogram=rng.dirichlet(np.ones(28)),
            dense_share=float(rng.uniform(0.02, 0.2)),
            dense_left=float(rng.uniform(0, 1)),
            group_mean_hu=rng.normal(-800, 20, N_GROUPS),
            slice_area=rng.uniform(0, 0.3, scan.n_slices),
        )
        for scan_id, scan in scans.items()
    }


def _trains(scan: FakeScan) -> bool:
    return scan.split == TRAINING and scan.slice_labelled


def _rows(scan_id: str, scan: FakeScan, classes: Sequence[str], skill: float, rng: np.random.Generator) -> pd.DataFrame:
    n = scan.n_slices
    truth = scan.slice_truth(classes)
    known = rng.random(n) < skill
    shown = np.where(known, [list(classes).index(name) for name in truth], rng.integers(len(classes), size=n))
    table = pd.DataFrame(
        {
            "scan_id": scan_id,
            "patient_id": scan.patient_id or scan_id,
            "split": scan.split,
            "fold": pd.array([scan.fold] * n, dtype="Int64"),
            "seen_in_training": _trains(scan),
            "used_for_selection": scan.split == VALIDATION and scan.slice_labelled,
            "label": scan.label,
            "slice_index": np.arange(n),
            "n_slices": n,
            "slice_label": pd.array(truth if scan.slice_labelled else [None] * n, dtype="string"),
        }
    )
    table[probability_columns(list(classes))] = _peaked(shown, len(classes), rng)
    table[region_columns(N_REGIONS)] = _peaked(rng.integers(N_REGIONS, size=n), N_REGIONS, rng)
    return table


def _peaked(shown: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows that sum to 1 and are largest, by far, at `shown`: float32 [len(shown), n]."""
    return (0.6 * np.eye(n)[shown] + 0.4 * rng.dirichlet(np.full(n, 5.0), size=len(shown))).astype(np.float32)
