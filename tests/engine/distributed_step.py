"""One step of training in one process or several, with its gradients written down: what test_distributed compares."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cnr_iemn.engine.distributed import other_processes
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.training import fit
from cnr_iemn.settings.schema import TrainerSettings, TrainSettings
from cnr_iemn.slices.augmentation import AugmentationSettings
from cnr_iemn.slices.balancing import balance
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceDataModule, SliceDataset, SliceTable
from cnr_iemn.slices.network import SliceNetwork

N = 13  # slices, which two processes cannot share equally


class Noise:
    """One scan of random slices."""

    def grey(self, scan_id: str) -> np.ndarray:
        return np.random.default_rng(1).integers(0, 256, (N, 32, 32), dtype=np.uint8)

    def lungs(self, scan_id: str) -> np.ndarray:
        return np.ones((N, 32, 32), dtype=np.uint8)


class Frozen(nn.BatchNorm2d):
    """Batch norm with its start statistics, whatever the batch."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


class Recording(SliceClassifier):
    """Writes the gradients of each step into the folder ``notes``, once for all processes."""

    notes: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.is_global_zero:
            gradients = {name: p.grad.clone() for name, p in self.network.named_parameters()}
            torch.save(gradients, self.notes / f"{self.trainer.global_step}.pt")


def take_part(settings: TrainSettings) -> None:
    """Fit for an epoch. ``settings.runs``: the folder for run and gradients."""
    torch.manual_seed(0)
    network = SliceNetwork("resnext50", weights="none")
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = Frozen
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
        parts=trainer.accumulate,
    )
    classifier = Recording(network, n_classes=3)
    classifier.notes = Path(settings.runs)
    run = RunFolder.of(Path(settings.runs), "study", "resnext50", "seed0")
    run.path.mkdir(parents=True, exist_ok=True)
    hardware = Hardware(torch.device("cpu"), "32", processes=trainer.cpu_processes)
    fit(classifier, data, run, classes=("A", "B", "C"), hardware=hardware, settings=trainer, loggers=[])


def step(folder: Path, **settings: int) -> dict[str, torch.Tensor]:
    """Return the gradients of one step by the name of their parameter."""
    folder.mkdir()
    trainer = TrainerSettings(max_epochs=1, batch_size=N, **settings)
    whole = TrainSettings(runs=str(folder), trainer=trainer)
    hardware = Hardware(torch.device("cpu"), "32", processes=trainer.cpu_processes)
    with other_processes(take_part, whole, hardware):
        take_part(whole)
    (path,) = folder.glob("*.pt")
    gradients: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return gradients
