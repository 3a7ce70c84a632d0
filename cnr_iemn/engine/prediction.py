"""A trained ensemble's answer for new scans."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.limited import refusal, run_limited
from cnr_iemn.ct.prepare import PreparedScan, prepare_scan
from cnr_iemn.engine.ensembles import Ensemble, Member, checkpoint_of
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.training import load_weights
from cnr_iemn.errors import ScanError
from cnr_iemn.files import json_text, write_text_atomic
from cnr_iemn.patients.group_features import feature_columns, group_percentages
from cnr_iemn.records import SCHEMA_VERSION, probability_columns
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.slices.datamodule import PixelSource, SliceDataset, SliceTable, plain_loader
from cnr_iemn.slices.inference import predict_slices
from cnr_iemn.slices.network import SliceNetwork


class OneScan:
    """A prepared scan in memory, read as the store is read."""

    def __init__(self, prepared: PreparedScan) -> None:
        self._grey = prepared.grey
        self._lungs = prepared.lungs.astype(np.uint8)

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [n_slices, size, size]."""
        return self._grey

    def lungs(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the lung mask, 0 or 1, uint8 [n_slices, size, size]."""
        return self._lungs


@dataclass(frozen=True)
class ScanSlices:
    """What the networks say of one scan.

    ``sets``: for each set of the ensemble's networks float32 [n_slices, classes] by model, head first.
    """

    scan_id: str
    z_mm: NDArray[np.float64]
    lung_litres: float
    findings: tuple[str, ...]
    sets: tuple[Mapping[str, NDArray[np.float32]], ...]

    @property
    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """The mean over the sets, by model."""
        return {model: np.mean([each[model] for each in self.sets], axis=0) for model in self.sets[0]}

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.z_mm)


def prepared_scans(
    found: list[tuple[str, Path]], pixels: PixelSettings, failures: dict[str, str]
) -> Iterator[tuple[str, PreparedScan]]:
    """Give id and pixels of each scan that can be read, the next one being read meanwhile; put refusals in failures."""
    prepare = partial(prepare_scan, **vars(pixels))
    for index, answer in run_limited(prepare, [path for _, path in found], workers=1):
        scan_id = found[index][0]
        if isinstance(answer, ScanError):
            failures[scan_id] = refusal(scan_id, answer)
        else:
            yield scan_id, answer


class EnsembleNetworks:
    """The networks of an ensemble, loaded once. Raises RunError where a checkpoint is missing or another one."""

    def __init__(self, study: Path, ensemble: Ensemble, hardware: Hardware, *, batch_size: int) -> None:
        self.ensemble = ensemble
        self.hardware = hardware
        self.batch_size = batch_size
        self.networks = {member: self._load(study, member) for member in ensemble.members}

    def _load(self, study: Path, member: Member) -> SliceNetwork:
        network = SliceNetwork(
            member.model,
            n_classes=len(self.ensemble.classes),
            position=member.position,
            weights="none",
            library=member.library,
        )
        load_weights(network, checkpoint_of(study, member))
        return network.to(memory_format=torch.channels_last)

    def slices(self, scan_id: str, prepared: PreparedScan) -> ScanSlices:
        """Predict the slices of one scan."""
        source, n_slices = OneScan(prepared), len(prepared.grey)
        found = {
            member: self.predict(member, self.batches(member, source, scan_id, n_slices))
            for member in self.ensemble.members
        }
        return ScanSlices(scan_id, prepared.z_mm, prepared.lung_litres, prepared.findings, self.in_sets(found))

    def batches(
        self, member: Member, source: PixelSource, scan_id: str, n_slices: int
    ) -> Iterable[dict[str, torch.Tensor]]:
        """Return the slices of one scan as this network sees them, head first: batches of ``SliceDataset``."""
        table = SliceTable.of({scan_id: n_slices}, {scan_id: None})
        dataset = SliceDataset(source, table, image_size=member.image_size)
        return plain_loader(dataset, self.batch_size, workers=0)

    def predict(self, member: Member, batches: Iterable[dict[str, torch.Tensor]]) -> NDArray[np.float32]:
        """Return the class probabilities that one network gives the slices of ``batches``, float32 [n, classes]."""
        network, precision = self.networks[member], member.precision
        return predict_slices(network, batches, device=self.hardware.device, precision=precision).classes

    def in_sets(self, found: Mapping[Member, NDArray[np.float32]]) -> tuple[Mapping[str, NDArray[np.float32]], ...]:
        """Return what each network says of a scan as ``ScanSlices.sets``."""
        return tuple({member.model: found[member] for member in one} for one in self.ensemble.sets)


def ensemble_features(scans: list[ScanSlices], ensemble: Ensemble) -> tuple[pd.DataFrame, ...]:
    """Return the booster's features of these scans from each set of networks, percent, one row each (section 2.2)."""
    columns = [name for model in ensemble.models for name in feature_columns(model, ensemble.classes)]

    def features(slices: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        answers = (slices[model].argmax(axis=1) for model in ensemble.models)
        return np.concatenate([group_percentages(each, n_classes=len(ensemble.classes)).ravel() for each in answers])

    return tuple(
        pd.DataFrame([features(scan.sets[k]) for scan in scans], [scan.scan_id for scan in scans], columns)
        for k in range(len(ensemble.sets))
    )


def scan_answers(
    scans: list[ScanSlices], probabilities: NDArray[np.float64], classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return one JSON-ready answer for each scan; ``probabilities``: the booster's, float64 [scans, classes]."""
    return [
        {
            "scan": scan.scan_id,
            "class": classes[int(row.argmax())],
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            "n_slices": scan.n_slices,
            "lung_litres": scan.lung_litres,
            "findings": list(scan.findings),
            "slices": [
                {
                    "slice_index": k,
                    "z_mm": float(scan.z_mm[k]),
                    "probabilities": {
                        model: dict(zip(classes, values[k].tolist(), strict=True))
                        for model, values in scan.probabilities.items()
                    },
                }
                for k in range(scan.n_slices)
            ],
        }
        for scan, row in zip(scans, probabilities, strict=True)
    ]


def write_answers(output: Path, ensemble: Ensemble, answers: list[dict[str, Any]], failures: Mapping[str, str]) -> None:
    """Write predictions.json, predictions.csv (a line a scan) and slices.csv (a line a slice and model)."""
    notice = {"notice": PHANTOM_NOTICE} if ensemble.phantom else {}
    head = {"schema_version": SCHEMA_VERSION, "study": ensemble.study, "models": list(ensemble.models)}
    document = {**notice, **head, "classes": list(ensemble.classes), "scans": answers, "refused": dict(failures)}
    write_text_atomic(output / "predictions.json", json_text(document))
    columns = probability_columns(ensemble.classes)
    scans = [
        {
            **notice,
            "schema_version": SCHEMA_VERSION,
            "scan": answer["scan"],
            "class": answer["class"],
            **dict(zip(columns, answer["probabilities"].values(), strict=True)),
            "n_slices": answer["n_slices"],
            "lung_litres": answer["lung_litres"],
            "findings": "; ".join(answer["findings"]),
        }
        for answer in answers
    ]
    slices = [
        {
            **notice,
            "schema_version": SCHEMA_VERSION,
            "scan": answer["scan"],
            "slice_index": entry["slice_index"],
            "z_mm": entry["z_mm"],
            "model": model,
            **dict(zip(columns, values.values(), strict=True)),
        }
        for answer in answers
        for entry in answer["slices"]
        for model, values in entry["probabilities"].items()
    ]
    write_text_atomic(output / "predictions.csv", pd.DataFrame(scans).to_csv(index=False))
    write_text_atomic(output / "slices.csv", pd.DataFrame(slices).to_csv(index=False))
