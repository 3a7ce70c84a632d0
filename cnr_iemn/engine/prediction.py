"""A trained ensemble's answer for new scans."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.limited import refusal, run_limited
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.engine.engines import Engine, choose_engine, start_engine
from cnr_iemn.engine.ensembles import Ensemble, Member, checkpoint_of
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.new_input import prepare_new
from cnr_iemn.engine.training import load_weights
from cnr_iemn.engine.weights import BUNDLE_TENSORS, load_network
from cnr_iemn.errors import ScanError
from cnr_iemn.slices.datamodule import PixelSource, SliceDataset, SliceTable, plain_loader
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

    ``networks``: float32 [n_slices, classes] by member of the ensemble, head first. ``phantom`` and ``grey_sha256``:
    as ``StoredScan`` has them.
    """

    scan_id: str
    z_mm: NDArray[np.float64]
    lung_litres: float
    findings: tuple[str, ...]
    phantom: bool
    grey_sha256: str
    networks: Mapping[Member, NDArray[np.float32]]

    @property
    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """The mean over the folds, by model."""
        models = dict.fromkeys(member.model for member in self.networks)
        return {
            model: np.mean([values for member, values in self.networks.items() if member.model == model], axis=0)
            for model in models
        }

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.z_mm)


@contextmanager
def prepared_scans(
    found: list[tuple[str, Path]], pixels: PixelSettings, failures: dict[str, str], *, numbered: bool = False
) -> Iterator[Iterator[tuple[str, PreparedScan]]]:
    """Read in another process from here to the block's end: id and pixels of each scan that can be answered.

    The next one is read meanwhile. Refusals are put in ``failures``, by id. ``numbered``: see ``find_slices``.
    """
    with closing(run_limited(partial(prepare_new, pixels, numbered), found, workers=1)) as answers:
        yield _told_apart(answers, found, failures)


def _told_apart(
    answers: Iterable[tuple[int, PreparedScan | ScanError]], found: list[tuple[str, Path]], failures: dict[str, str]
) -> Iterator[tuple[str, PreparedScan]]:
    for index, answer in answers:
        scan_id = found[index][0]
        if isinstance(answer, ScanError):
            failures[scan_id] = refusal(scan_id, answer)
        else:
            yield scan_id, answer


class EnsembleNetworks:
    """The networks of an ensemble, loaded once.

    ``study``: its folder, or that of a bundle. ``engine``: what runs them, one of ``registry.ENGINES``.

    Raises RunError where a checkpoint is missing or another one, ConfigurationError where the engine cannot run here.
    """

    def __init__(
        self, study: Path, ensemble: Ensemble, hardware: Hardware, *, batch_size: int, engine: str = "torch"
    ) -> None:
        self.engine = choose_engine(engine, hardware)
        self.ensemble = ensemble
        self.hardware = hardware
        self.batch_size = batch_size
        self.networks = {member: self._load(study, member) for member in ensemble.members}
        self._engines: dict[Member, Engine] = {}

    def _load(self, study: Path, member: Member) -> SliceNetwork:
        network = SliceNetwork(
            member.model,
            n_classes=len(self.ensemble.classes),
            position=member.position,
            weights="none",
            library=member.library,
        )
        if member.checkpoint == BUNDLE_TENSORS:
            load_network(network, study / member.checkpoint, member.name)
        else:
            load_weights(network, checkpoint_of(study, member))
        return network.to(memory_format=torch.channels_last)

    def slices(self, scan_id: str, prepared: PreparedScan) -> ScanSlices:
        """Predict the slices of one scan."""
        source, n_slices = OneScan(prepared), len(prepared.grey)
        found: dict[Member, NDArray[np.float32]] = {}
        for size in {member.image_size for member in self.ensemble.members}:
            alike = [member for member in self.ensemble.members if member.image_size == size]
            batches = list(self.batches(alike[0], source, scan_id, n_slices))  # the same bytes for all of them
            found |= {member: self.predict(member, batches) for member in alike}
        networks = {member: found[member] for member in self.ensemble.members}
        facts = prepared.z_mm, prepared.lung_litres, prepared.findings, prepared.phantom
        digest = hashlib.sha256(prepared.grey.tobytes()).hexdigest()
        return ScanSlices(scan_id, *facts, digest, networks)

    def batches(
        self, member: Member, source: PixelSource, scan_id: str, n_slices: int
    ) -> Iterable[dict[str, torch.Tensor]]:
        """Return the slices of one scan as this network sees them, head first: batches of ``SliceDataset``."""
        table = SliceTable.of({scan_id: n_slices}, {scan_id: None})
        dataset = SliceDataset(source, table, image_size=member.image_size)
        return plain_loader(dataset, self.batch_size, workers=0)

    def predict(self, member: Member, batches: Iterable[dict[str, torch.Tensor]]) -> NDArray[np.float32]:
        """Return the class probabilities that one network gives the slices of ``batches``, float32 [n, classes]."""
        if member not in self._engines:
            network, side = self.networks[member], member.image_size
            self._engines[member] = start_engine(
                self.engine, network, image_size=side, device=self.hardware.device, precision=member.precision
            )
        return self._engines[member](batches)
