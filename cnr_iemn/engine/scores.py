"""From the counts of an epoch to its scalars, which metrics.csv and every logger take from one place."""

import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from cnr_iemn.engine.wandb_run import WandbRun
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceBatch

MACHINE = "machine/"
"""Prefix of what tells of the machine, not of the training: two runs of one configuration differ in it."""


class EpochScores(Callback):
    """Makes each epoch's scalars known to Lightning, before all that reads them: to stand first among the callbacks.

    ``classes``: names, in order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rates: list[float] = []
        self._slices = 0
        self._started = self._trained = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock and counts."""
        self._rates, self._slices, self._started = [], 0, time.monotonic()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch's learning rate; the schedule's next step comes before the batch's end."""
        self._rates.append(learning_rate(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Count the slices and the time without validation."""
        self._slices += len(batch["label"])
        self._trained = time.monotonic()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured on the validation slices."""
        assert isinstance(pl_module, SliceClassifier)
        metrics = pl_module.val_metrics
        _log(pl_module, metrics.named("val", self.classes))
        confusion: list[list[int]] = metrics.compute()[0].tolist()
        metrics.reset()
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.log_confusion(confusion, self.classes, epoch=trainer.current_epoch, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was measured on the training slices, the mean learning rate, and what the machine did."""
        assert isinstance(pl_module, SliceClassifier)
        metrics = pl_module.train_metrics
        _log(pl_module, metrics.named("train", self.classes))
        metrics.reset()
        values = {
            "learning_rate": sum(self._rates) / len(self._rates),
            f"{MACHINE}slices_per_second": self._slices * trainer.world_size / (self._trained - self._started),
            f"{MACHINE}process_gib": process_bytes() / 2**30,
        }
        if pl_module.device.type == "cuda":
            values[f"{MACHINE}gpu_peak_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        _log(pl_module, values)


class StepScalars(Callback):
    """Gives loss and learning rate to the loggers, ``every`` so many steps.

    The loss is read one batch later, when it is known: reading at once would have a GPU wait.
    """

    def __init__(self, *, every: int) -> None:
        self._every = every
        self._rate = 0.0
        self._step = 0
        self._pending: tuple[int, float, Tensor] | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch's learning rate."""
        self._rate = learning_rate(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Log the batch before this one, and keep this one where it is its turn."""
        self._flush(trainer)
        step, before = trainer.global_step, self._step
        self._step = step
        if step > before and step % self._every == 0:  # with accumulation a step has several batches
            self._pending = step, self._rate, outputs["loss"].detach()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the last one."""
        self._flush(trainer)

    def _flush(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        step, rate, loss = self._pending
        self._pending = None
        values = {"step/loss": float(loss), "step/learning_rate": rate, "epoch": float(trainer.current_epoch)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


def learning_rate(trainer: pl.Trainer) -> float:
    """Return the learning rate of the present batch."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def process_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell it (macOS), its peak."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * getpagesize()
    return getrusage(RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _log(pl_module: pl.LightningModule, values: dict[str, float]) -> None:
    """Make values known to callbacks and checkpoints. Loggers get them from EpochTable, one row an epoch."""
    pl_module.log_dict(values, logger=False, batch_size=1, sync_dist=True)
