"""The ways to train that ``benchmarks.training`` compares: each trains for ever, a turn at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.input import CLASSES, Slices, transforms
from cnr_iemn.engine.distributed import loader_workers
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.training import fit
from cnr_iemn.settings.schema import TrainerSettings
from cnr_iemn.slices.augmentation import AugmentationSettings
from cnr_iemn.slices.balancing import balance
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceDataModule, SliceDataset
from cnr_iemn.slices.losses import focal_loss
from cnr_iemn.slices.network import SliceNetwork

COPIES = 400  # of each slice: an epoch that no measurement reaches the end of


@dataclass(frozen=True)
class Task:
    """What every contender does: ``steps`` of ``batch`` slices a turn. ``folder``: of the cohort and its store."""

    model: str
    size: int
    batch: int
    steps: int
    hardware: Hardware
    folder: Path


class Turns:
    """A contender's end of the pipe: waits for its turn, and tells how long its steps took."""

    def __init__(self, pipe: Connection, task: Task) -> None:
        self._pipe, self._task = pipe, task
        self._done = 0
        self._started = time.perf_counter()

    def step_done(self) -> None:
        """Count a step; at the end of a turn send its seconds and wait for the next."""
        self._done += 1
        if self._done % self._task.steps == 0:
            if self._task.hardware.device.type == "cuda":
                torch.cuda.synchronize()
            self._pipe.send(time.perf_counter() - self._started)
            self._pipe.recv()
            self._started = time.perf_counter()


class TakesTurns(Callback):
    """Trains only when it is its turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """End a step."""
        self._turns.step_done()


def training_data(task: Task) -> SliceDataset:
    """Return what train.py shows a network: every item warped, drawn anew."""
    slices = Slices(task.folder)
    items = balance(slices.table.label, classes=CLASSES, copies=dict.fromkeys(CLASSES, COPIES), augment="all_classes")
    return SliceDataset(
        slices.store,
        slices.table,
        image_size=task.size,
        items=items,
        augmentation=AugmentationSettings(),
        redraw=True,
    )


def module_of(data: SliceDataset, task: Task) -> SliceDataModule:
    """Return train.py's data module."""
    workers, for_gpu = loader_workers(task.hardware), task.hardware.on_gpu
    return SliceDataModule(data, None, batch_size=task.batch, workers=workers, seed=0, for_gpu=for_gpu)


def bare_loop(turns: Turns, task: Task, *, compiled: bool = False) -> None:
    """Train on one resident batch for ever: nothing is loaded, measured or written."""
    device = task.hardware.device
    loaded = next(iter(module_of(training_data(task), task).train_dataloader()))
    batch = {key: value.to(device) for key, value in loaded.items()}
    torch.backends.cudnn.benchmark = device.type == "cuda"
    network = SliceNetwork(task.model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(network) if compiled else network
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=task.hardware.precision == "bf16"):
            classes, regions = forward(batch["image"], batch["position"])
            loss = focal_loss(classes, batch["label"]) + focal_loss(regions, batch["region"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        turns.step_done()


def compiled_loop(turns: Turns, task: Task) -> None:
    """The bare loop through torch.compile."""
    bare_loop(turns, task, compiled=True)


def train_py(turns: Turns, task: Task) -> None:
    """Train as train.py does."""
    fit(
        SliceClassifier(SliceNetwork(task.model), n_classes=len(CLASSES)),
        module_of(training_data(task), task),
        RunFolder.of(task.folder / "runs", "benchmark", task.model, "0"),
        classes=CLASSES,
        hardware=task.hardware,
        settings=TrainerSettings(batch_size=task.batch),
        loggers=[],
        watch=TakesTurns(turns),
    )


class PilSlices(Dataset[tuple[Tensor, ...]]):
    """The same slices, each a PIL image through torchvision's transforms, as many projects of the field do."""

    def __init__(self, task: Task) -> None:
        self._slices = Slices(task.folder)
        self._chain = v2.Compose([transforms(task.size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self._slices.table) * COPIES

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        row, table = index % len(self._slices.table), self._slices.table
        image = self._chain(Image.fromarray(self._slices.image(row).transpose(1, 2, 0)))
        place = torch.tensor([table.n_slices[row] / 200, table.slice_index[row] / table.n_slices[row]])
        return image, place.float(), torch.tensor(table.label[row]), torch.tensor(table.region[row])


class PlainModule(pl.LightningModule):
    """The same network, losses and optimizer in the fewest lines."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.network = SliceNetwork(model)

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Return the loss."""
        image, position, label, region = batch
        classes, regions = self.network(image, position)
        loss = focal_loss(classes, label) + focal_loss(regions, region)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam as it comes."""
        return torch.optim.Adam(self.parameters(), lr=1e-4)


def lightning_defaults(turns: Turns, task: Task) -> None:
    """Train with what Lightning and torch do when they are not told otherwise."""
    trainer = pl.Trainer(
        accelerator="gpu" if task.hardware.device.type == "cuda" else "cpu",
        max_epochs=1,
        callbacks=[TakesTurns(turns)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PlainModule(task.model), DataLoader(PilSlices(task), task.batch, shuffle=True))


Contender = Callable[[Turns, Task], None]
BARE, OURS, DEFAULTS, COMPILED = "bare loop", "train.py", "Lightning's defaults", "bare loop, torch.compile"
CONTENDERS: dict[str, Contender] = {
    BARE: bare_loop,
    f"{BARE}, again": bare_loop,
    OURS: train_py,
    DEFAULTS: lightning_defaults,
}
