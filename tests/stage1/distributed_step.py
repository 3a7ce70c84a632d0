"""One training step in one process or several, with its gradients, for test_distributed."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cnr_iemn.config.schema.settings import AugmentationSettings, TrainerSettings, TrainSettings
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset, SliceTable
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.distributed import claim_rank, launch_ranks
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.trainer import fit

N = 13  # slices, which two processes cannot share equally


class Noise:
    """One scan of random slices."""

    def grey(self, scan_id: str) -> np.ndarray:
        return np.random.default_rng(1).integers(0, 256, (N, 32, 32), dtype=np.uint8)

    def lungs(self, scan_id: str) -> np.ndarray:
        return np.ones((N, 32, 32), dtype=np.uint8)


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch norm with its start statistics, whatever the batch."""

    def train(self, mode: bool = True) -> "FixedBatchNorm":
        return super().train(False)


class Recording(SliceClassifier):
    """Writes the gradients of each step into the folder ``notes``, once for all processes."""

    notes: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.is_global_zero:
            gradients = {name: p.grad.clone() for name, p in self.network.named_parameters()}
            torch.save(gradients, self.notes / f"{self.trainer.global_step}.pt")


def train_step(settings: TrainSettings, tag: str = "seed0") -> float:
    """Fit for an epoch. ``settings.runs``: the folder for run and gradients."""
    torch.manual_seed(0)
    network = SliceNetwork("resnext50", weights="none")
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FixedBatchNorm
    network.train()
    labels = np.arange(N) % 3
    table = SliceTable.of({"a": N}, {"a": labels})
    items = balance(labels, classes=("A", "B", "C"), copies={}, augment="paper")
    training = SliceDataset(Noise(), table, image_size=32, items=items, augmentation=AugmentationSettings())
    trainer = settings.trainer
    data = SliceDataModule(
        training,
        SliceDataset(Noise(), table, image_size=32),
        batch_size=N,
        workers=0,
        seed=0,
        accumulate=trainer.accumulate,
    )
    classifier = Recording(network, classes=("A", "B", "C"))
    classifier.notes = Path(settings.runs)
    run = RunFolder.of(Path(settings.runs), "study", "resnext50", tag)
    run.path.mkdir(parents=True, exist_ok=True)
    hardware = Hardware(torch.device("cpu"), "32", processes=trainer.cpu_processes)
    claim_rank(hardware)
    return fit(classifier, data, run, hardware=hardware, settings=trainer, loggers=[]).score


def begin(folder: Path, trainer: TrainerSettings) -> TrainSettings:
    """Make the run's folder, as the first process does, and return the settings of its processes."""
    folder.mkdir(exist_ok=True)
    RunFolder.of(folder, "study", "resnext50", "seed0").start({"configuration": {}}, "")
    return TrainSettings(runs=str(folder), trainer=trainer)


def step(folder: Path, **settings: int) -> dict[str, torch.Tensor]:
    """Return the gradients of one step by the name of their parameter."""
    trainer = TrainerSettings(max_epochs=1, batch_size=N, **settings)
    whole = begin(folder, trainer)
    hardware = Hardware(torch.device("cpu"), "32", processes=trainer.cpu_processes)
    if hardware.processes == 1:
        train_step(whole)
    else:
        launch_ranks(train_step, whole, hardware)
    (path,) = folder.glob("*.pt")
    gradients: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return gradients
