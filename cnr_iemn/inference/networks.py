"""The networks of an ensemble, loaded once, on the slices of scans."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.inference.backends import Engine, choose_engine, start_engine
from cnr_iemn.inference.bundle import BUNDLE_TENSORS, load_network
from cnr_iemn.stage1.data.datamodule import PixelSource, SliceDataset, SliceTable, plain_loader
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import require_finite
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.trainer import load_weights
from cnr_iemn.stage2.ensemble import Ensemble, Member, checkpoint_path


class InMemoryScan:
    """A scan in memory, read as the slice store is: grey slices and lung mask, [n_slices, size, size]."""

    def __init__(self, grey: NDArray[np.uint8], lungs: NDArray[np.generic]) -> None:
        self._grey = grey
        self._lungs = lungs.astype(np.uint8)

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [n_slices, size, size]."""
        return self._grey

    def lungs(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the lung mask, 0 or 1, uint8 [n_slices, size, size]."""
        return self._lungs


class EnsembleNetworks:
    """The networks of an ensemble.

    Args:
        study: Folder of the study, or of a bundle.
        ensemble: Whose members to load.
        hardware: Where they run.
        batch_size: Slices.
        engine: One of ``constants.ENGINES``.

    Raises:
        RunError: A checkpoint is missing, or is not the one the ensemble was made with.
        ConfigurationError: The engine cannot run here.
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
            load_weights(network, checkpoint_path(study, member))
        return network.to(memory_format=torch.channels_last)

    def predict_scan(self, prepared: PreparedScan) -> NDArray[np.float32]:
        """Return the class probabilities of a scan's slices, float32 [members, n_slices, classes]."""
        source, n_slices = InMemoryScan(prepared.grey, prepared.lungs), len(prepared.grey)
        probabilities: dict[Member, NDArray[np.float32]] = {}
        for size in {member.image_size for member in self.ensemble.members}:
            members = [member for member in self.ensemble.members if member.image_size == size]
            batches = list(self.batches(members[0], source, "scan", n_slices))  # the same for all of this size
            probabilities |= {member: self.predict(member, batches) for member in members}
        return np.stack([probabilities[member] for member in self.ensemble.members])

    def batches(
        self, member: Member, source: PixelSource, scan_id: str, n_slices: int
    ) -> Iterable[dict[str, torch.Tensor]]:
        """Return the slices of a scan as a network's input, head first: batches of ``SliceDataset``."""
        table = SliceTable.of({scan_id: n_slices}, {scan_id: None})
        dataset = SliceDataset(source, table, image_size=member.image_size)
        return plain_loader(dataset, self.batch_size, workers=0)

    def predict(self, member: Member, batches: Iterable[dict[str, torch.Tensor]]) -> NDArray[np.float32]:
        """Return one network's class probabilities of the slices of ``batches``, float32 [n, classes].

        Raises:
            RunError: They are not finite.
        """
        if member not in self._engines:
            network, side = self.networks[member], member.image_size
            self._engines[member] = start_engine(
                self.engine, network, image_size=side, device=self.hardware.device, precision=member.precision
            )
        probabilities = self._engines[member](batches)
        require_finite(probabilities, member.name)
        return probabilities
