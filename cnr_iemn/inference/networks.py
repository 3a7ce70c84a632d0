"""The networks of an ensemble, loaded once, on the slices of scans."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.errors import RunError
from cnr_iemn.inference.backends import Engine, choose_engine, start_engine
from cnr_iemn.inference.bundle import BUNDLE_TENSORS, load_network
from cnr_iemn.stage1.data.datamodule import PixelSource, SliceDataset, SliceTable, plain_loader
from cnr_iemn.stage1.data.input_channels import InputChannels
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs, require_finite
from cnr_iemn.stage1.training.checkpoints import load_weights
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage2.ensemble import Ensemble, Member
from cnr_iemn.stage2.feature_space import FeatureSpace
from cnr_iemn.stage2.out_of_fold import with_scores
from cnr_iemn.utils.atomic_io import sha256_of_file


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
        space: Of the features that stage 2 reads; None where it reads none.

    Raises:
        RunError: A checkpoint is missing, or is not the one the ensemble was made with.
        ConfigurationError: The engine cannot run here.
    """

    def __init__(
        self,
        study: Path,
        ensemble: Ensemble,
        hardware: Hardware,
        *,
        batch_size: int,
        engine: str = "torch",
        space: FeatureSpace | None = None,
    ) -> None:
        self.engine = choose_engine(engine, hardware)
        self.ensemble = ensemble
        self.hardware = hardware
        self.batch_size = batch_size
        self.space = space
        self.networks = {member: self._load(study, member) for member in ensemble.members}
        self._engines: dict[Member, Engine] = {}

    def _load(self, study: Path, member: Member) -> SliceNetwork:
        network = SliceNetwork(
            member.model,
            n_classes=len(self.ensemble.classes),
            position=member.position,
            weights="none",
            library=member.library,
            attention=member.attention,
            image_size=member.image_size,
            tta=member.tta,
        )
        if member.checkpoint == BUNDLE_TENSORS:
            load_network(network, study / member.checkpoint, member.name)
        else:
            load_weights(network, _checkpoint_path(study, member))
        return network.to(memory_format=torch.channels_last)

    def predict_scan(self, prepared: PreparedScan) -> NDArray[np.float32]:
        """Return the slices of a scan as stage 2 reads them, float32 [``replicates``, n_slices, channels]."""
        return self.channels(self.outputs(prepared))

    def channels(self, outputs: Mapping[Member, SliceOutputs]) -> NDArray[np.float32]:
        """Return the members' outputs as ``predict_scan`` does."""
        return self.join({member: self._channels(member, outputs[member]) for member in self.ensemble.members})

    def join(self, channels: Mapping[Member, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the members' channels, float32 [n_slices, channels], as ``predict_scan`` does: means over seeds."""
        groups = [np.stack([channels[member] for member in group]) for group in self.ensemble.replicates]
        return np.stack([group.mean(axis=0) for group in groups])

    def outputs(self, prepared: PreparedScan) -> dict[Member, SliceOutputs]:
        """Return each member's outputs of a scan's slices."""
        source, n_slices = InMemoryScan(prepared.grey, prepared.lungs), len(prepared.grey)
        outputs: dict[Member, SliceOutputs] = {}
        inputs: dict[tuple[int, tuple[str, ...]], list[Member]] = {}
        for member in self.ensemble.members:
            inputs.setdefault((member.image_size, member.channels), []).append(member)
        for members in inputs.values():
            batches = list(self.batches(members[0], source, "scan", n_slices))  # the same for all of them
            outputs |= {member: self.run(member, batches) for member in members}
        return outputs

    def batches(
        self, member: Member, source: PixelSource, scan_id: str, n_slices: int
    ) -> Iterable[dict[str, torch.Tensor]]:
        """Return the slices of a scan as a network's input, head first: batches of ``SliceDataset``."""
        table = SliceTable.of({scan_id: n_slices}, {scan_id: None})
        channels = self.channels_of(member)
        dataset = SliceDataset(source, table, image_size=member.image_size, channels=channels)
        return plain_loader(dataset, self.batch_size, workers=0)

    def channels_of(self, member: Member) -> InputChannels:
        """Return the channels of a network's input."""
        return InputChannels(member.channels, self.ensemble.pixels.window)

    def predict(self, member: Member, batches: Iterable[dict[str, torch.Tensor]]) -> NDArray[np.float32]:
        """Return the slices of ``batches`` by one network as stage 2 reads them, float32 [n, channels].

        Raises:
            RunError: The probabilities are not finite.
        """
        return self._channels(member, self.run(member, batches))

    def _channels(self, member: Member, outputs: SliceOutputs) -> NDArray[np.float32]:
        slices = outputs.classes
        if self.ensemble.axes.attention:
            slices = with_scores(slices, outputs.scores)
        if self.space is None:
            return slices
        return self.space.channels(member.model, member.fold, slices, outputs.features)

    def run(self, member: Member, batches: Iterable[dict[str, torch.Tensor]]) -> SliceOutputs:
        """Return one network's outputs of the slices of ``batches``. Raises RunError as ``predict`` does."""
        if member not in self._engines:
            network, side = self.networks[member], member.image_size
            self._engines[member] = start_engine(
                self.engine, network, image_size=side, device=self.hardware.device, precision=member.precision
            )
        outputs = self._engines[member](batches)
        require_finite(outputs.classes, member.name)
        return outputs


def _checkpoint_path(study: Path, member: Member) -> Path:
    """Return a member's checkpoint. Raises RunError where it is missing or not the one the ensemble was made with."""
    path = study / member.checkpoint
    if not path.is_file():
        raise RunError(f"The checkpoint {path} of {member.model} is missing. Copy it back, or train the run again.")
    if sha256_of_file(path) != member.checkpoint_sha256:
        raise RunError(
            f"The checkpoint {path} is not the one this ensemble was made with (its SHA-256 differs): the run was "
            "trained again, or the file is damaged. Run aggregate.py again."
        )
    return path
