"""Training loops that ``benchmarks.training`` compares. Each trains without end, a few steps at its turn."""

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

from benchmarks.data_loading import CLASSES, PhantomSlices, transforms
from cnr_iemn.config.schema.settings import AugmentationSettings, TrainerSettings
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset
from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.distributed import loader_workers
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.trainer import fit

COPIES = 400  # of each slice, so that no measurement reaches the end of an epoch


@dataclass(frozen=True)
class Task:
    """The work of every contender.

    Attributes:
        model: Backbone.
        size: Side of the network's input in pixels.
        batch: Slices in a batch.
        steps: Steps in a turn.
        hardware: Device and precision.
        folder: Folder of the cohort and its store.
    """

    model: str
    size: int
    batch: int
    steps: int
    hardware: Hardware
    folder: Path


class Turns:
    """A contender's end of the pipe: waits for its turn and sends the seconds of its steps."""

    def __init__(self, pipe: Connection, task: Task) -> None:
        self._pipe, self._task = pipe, task
        self._n_steps = 0
        self._start_time = time.perf_counter()

    def step_done(self) -> None:
        """Count a step; at the end of a turn send its seconds and wait for the next."""
        self._n_steps += 1
        if self._n_steps % self._task.steps == 0:
            if self._task.hardware.device.type == "cuda":
                torch.cuda.synchronize()
            self._pipe.send(time.perf_counter() - self._start_time)
            self._pipe.recv()
            self._start_time = time.perf_counter()


class TurnCallback(Callback):
    """Makes Lightning wait for the contender's turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Count the step."""
        self._turns.step_done()


def training_data(task: Task) -> SliceDataset:
    """Return train.py's data set; every item is augmented anew."""
    slices = PhantomSlices(task.folder)
    items = balance(slices.table.label, classes=CLASSES, copies=dict.fromkeys(CLASSES, COPIES), augment="all_classes")
    return SliceDataset(
        slices.store,
        slices.table,
        image_size=task.size,
        items=items,
        augmentation=AugmentationSettings(),
        redraw=True,
    )


def make_data_module(data: SliceDataset, task: Task) -> SliceDataModule:
    """Return train.py's data module."""
    workers, on_gpu = loader_workers(task.hardware), task.hardware.on_gpu
    return SliceDataModule(data, None, batch_size=task.batch, workers=workers, seed=0, for_gpu=on_gpu)


def bare_loop(turns: Turns, task: Task, *, use_compile: bool = False) -> None:
    """Train on one resident batch without end, without loading, metrics or files."""
    device = task.hardware.device
    sample = next(iter(make_data_module(training_data(task), task).train_dataloader()))
    batch = {key: value.to(device) for key, value in sample.items()}
    torch.backends.cudnn.benchmark = device.type == "cuda"
    network = SliceNetwork(task.model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(network) if use_compile else network
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=task.hardware.precision == "bf16"):
            classes, regions = forward(batch["image"], batch["position"])
            loss = focal_loss(classes, batch["label"]) + focal_loss(regions, batch["region"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        turns.step_done()


def bare_loop_compile(turns: Turns, task: Task) -> None:
    """Run the bare loop with torch.compile."""
    bare_loop(turns, task, use_compile=True)


def train_py(turns: Turns, task: Task) -> None:
    """Train as train.py does."""
    run = RunFolder.of(task.folder / "runs", "benchmark", task.model, "0")
    run.start({"configuration": {}}, "")
    fit(
        SliceClassifier(SliceNetwork(task.model), classes=CLASSES),
        make_data_module(training_data(task), task),
        run,
        hardware=task.hardware,
        settings=TrainerSettings(batch_size=task.batch),
        loggers=[],
        extra_callback=TurnCallback(turns),
    )


class PilSlices(Dataset[tuple[Tensor, ...]]):
    """The same slices as PIL images with the transforms of torchvision."""

    def __init__(self, task: Task) -> None:
        self._slices = PhantomSlices(task.folder)
        self._chain = v2.Compose([transforms(task.size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self._slices.table) * COPIES

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        row, table = index % len(self._slices.table), self._slices.table
        image = self._chain(Image.fromarray(self._slices.image(row).transpose(1, 2, 0)))
        position = torch.tensor([table.n_slices[row] / 200, table.slice_index[row] / table.n_slices[row]])
        return image, position.float(), torch.tensor(table.label[row]), torch.tensor(table.region[row])


class PlainModule(pl.LightningModule):
    """The same network, losses and optimizer in a minimal Lightning module."""

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
        """Return Adam with its defaults."""
        return torch.optim.Adam(self.parameters(), lr=1e-4)


def lightning_defaults(turns: Turns, task: Task) -> None:
    """Train with the defaults of Lightning and torch."""
    trainer = pl.Trainer(
        accelerator="gpu" if task.hardware.device.type == "cuda" else "cpu",
        max_epochs=1,
        callbacks=[TurnCallback(turns)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PlainModule(task.model), DataLoader(PilSlices(task), task.batch, shuffle=True))


Contender = Callable[[Turns, Task], None]
BARE, TRAIN_PY, DEFAULTS, COMPILE = "bare loop", "train.py", "Lightning's defaults", "bare loop, torch.compile"
CONTENDERS: dict[str, Contender] = {
    BARE: bare_loop,
    f"{BARE}, again": bare_loop,
    TRAIN_PY: train_py,
    DEFAULTS: lightning_defaults,
}
