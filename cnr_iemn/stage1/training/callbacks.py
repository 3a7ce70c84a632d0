"""Callbacks of the training: metrics.csv and progress lines, checks, early stopping, averaged weights, seeds."""

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnr_iemn.errors import TrainingError
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage1.data.datamodule import SliceBatch, SliceTable
from cnr_iemn.stage1.training.distributed import first_process
from cnr_iemn.stage1.training.lightning_module import SYSTEM_PREFIX, current_learning_rate
from cnr_iemn.stage1.training.loggers.progress import LINE_SECONDS, epoch_figures, format_duration
from cnr_iemn.utils.atomic_io import write_text_atomic

log = logging.getLogger(__name__)

Weights = tuple[Tensor, ...] | list[Tensor]
_NO_METRICS = ("schema_version", "epoch", "steps", "seconds", SYSTEM_PREFIX)


class MetricsCsv(Callback):
    """Writes a row an epoch to metrics.csv and every logger and, without a progress bar, prints lines.

    A resumed run takes the rows from its checkpoint, so a row of an epoch that is trained again is removed. One line is
    printed an epoch, and within a long epoch one every few minutes.

    Args:
        path: Of metrics.csv.
        verbose: Whether lines are printed.
    """

    def __init__(self, path: Path, *, verbose: bool) -> None:
        self.path = path
        self.verbose = verbose
        self.rows: list[dict[str, float | int]] = []
        self._epoch_start = self._seconds = 0.0
        self._epochs = 0  # of this process, as is the time that they took
        self._line_time = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of a checkpoint, and cut the file back to them."""
        self.rows = list(state_dict["rows"])
        self._write()

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured in the last epoch."""
        return {key: value for key, value in self.rows[-1].items() if not key.startswith(_NO_METRICS)}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_start = self._line_time = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line where the last one is minutes ago."""
        self._print_batch(trainer, "batch", batch_idx + 1, int(trainer.num_training_batches))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line where the last one is minutes ago."""
        self._print_batch(trainer, "validation batch", batch_idx + 1, int(trainer.num_val_batches[dataloader_idx]))

    def _print_batch(self, trainer: pl.Trainer, kind: str, number: int, count: int) -> None:
        now = time.monotonic()
        if self.verbose and now - self._line_time >= LINE_SECONDS:
            self._line_time = now
            epoch, duration = trainer.current_epoch + 1, format_duration(now - self._epoch_start)
            log.info("  epoch %d/%s, %s %d/%d after %s", epoch, trainer.max_epochs, kind, number, count, duration)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table with this epoch's row. Validation, where there is one, has been logged by now."""
        seconds = time.monotonic() - self._epoch_start
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        progress = {"epoch": trainer.current_epoch, "steps": trainer.global_step, "seconds": round(seconds, 2)}
        row = {**progress, **values}
        self.rows.append({"schema_version": SCHEMA_VERSION, **row})
        self._write()
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
        if self.verbose:
            self._print_epoch(trainer, seconds, values)

    def _print_epoch(self, trainer: pl.Trainer, seconds: float, values: dict[str, float]) -> None:
        self._seconds += seconds
        self._epochs += 1
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        left = self._seconds / self._epochs * (epochs - epoch)
        speed = f"{values[f'{SYSTEM_PREFIX}slices_per_second']:.0f} slices/s"
        figures = epoch_figures(values)
        log.info(
            "epoch %d/%d  %s  (%.0f s, %s, %s left)", epoch, epochs, figures, seconds, speed, format_duration(left)
        )

    def _write(self) -> None:
        if not first_process():
            return
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.path, text.getvalue())


class NanGuard(Callback):
    """Stops a run whose loss is not finite and names the slices of the batch.

    Each loss is read one batch later, when it is known: reading it at once would make a GPU wait.

    Args:
        table: Of the training slices.
    """

    def __init__(self, table: SliceTable) -> None:
        self._table = table
        self._pending: tuple[Tensor, Tensor, int, int] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Check the loss before this one. Raises TrainingError."""
        self._check(trainer)
        self._pending = outputs["loss"].detach(), batch["slice"], trainer.current_epoch, batch_idx

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the last one, before a checkpoint is written. Raises TrainingError."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        loss, rows, epoch, batch = self._pending
        self._pending = None
        finite = math.isfinite(float(loss))
        if trainer.world_size > 1:  # one for all, or the others would wait for it
            all_finite = trainer.strategy.reduce_boolean_decision(finite)
            if finite and not all_finite:
                raise TrainingError("Another rank has a non-finite loss; see its output for the slices.")
        if finite:
            return
        slices: dict[str, list[int]] = {}
        for row in rows.tolist():
            scan_id = self._table.scan_ids[self._table.scan[row]]
            slices.setdefault(scan_id, []).append(int(self._table.slice_index[row]))
        listed = "; ".join(f"{scan_id}: {', '.join(map(str, sorted(set(k))))}" for scan_id, k in sorted(slices.items()))
        raise TrainingError(
            f"The loss is {float(loss)} in epoch {epoch + 1}, batch {batch + 1}: training has diverged. Lower "
            "trainer.learning_rate, try trainer.precision=32, or look at the batch's slices (scan: slice indices): "
            f"{listed}. What was learned up to the epoch before is kept."
        )


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's early stopping that also ends a resumed run which had stopped already.

    Args:
        monitor: Name of the metric, the higher the better.
        patience: Epochs without an improvement after which the training ends.
    """

    def __init__(self, monitor: str, *, patience: int) -> None:
        super().__init__(monitor=monitor, mode="max", patience=patience)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once where the checkpoint that the run goes on from is the one after which it stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class AveragedWeights(WeightAveraging):
    """Exponential moving average of weights and running statistics after each step (Polyak and Juditsky 1992).

    Validation and checkpoints use the average; the optimizer continues with the weights themselves.

    Args:
        decay: Of the average, reached gradually (see ``decay_after``): a short run would otherwise end as the average
            of little but its start weights.
        device: Of the training; Lightning builds the average before it moves the network there.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        super().__init__(device=device, multi_avg_fn=_warmed_average(decay))


def decay_after(steps: int, decay: float) -> float:
    """Return the decay of the average after so many of its steps: min(decay, (1 + n) / (10 + n)), as TensorFlow has it.

    Args:
        steps: Number of steps in the average, 1 or more.
        decay: Configured decay, above 0 and below 1.

    Returns:
        How much of the average stays in the next step. The start weights' share is below a thousandth from the tenth
        step on where ``decay`` is 0.8 or more; 0.999 is reached after 8,990 steps.
    """
    return min(decay, (1 + steps) / (10 + steps))


def _warmed_average(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """Return the update function of torch's AveragedModel.

    It counts the steps itself and keeps the count in the checkpoint, so that a run that goes on has the same average.
    """

    def update(averages: Weights, weights: Weights, steps: Tensor | int) -> None:
        step = get_ema_multi_avg_fn(decay_after(int(steps), decay))  # type: ignore[no-untyped-call]
        step(averages, weights, steps)

    return update


class EpochSeed(Callback):
    """Seeds torch's random numbers in each epoch, from the run's seed, the epoch and the rank.

    Dropout is then the same in a resumed run and differs between ranks. The order of the slices and their augmentation
    have generators of their own; nothing else is random.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed before an epoch's first batch; making a loader's iterator has drawn by then."""
        if batch_idx == 0:
            words = [self._seed, trainer.current_epoch, trainer.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))


class StepMetrics(Callback):
    """Logs loss and learning rate every ``interval`` steps, the loss one batch later: see NanGuard."""

    def __init__(self, *, interval: int) -> None:
        self._interval = interval
        self._rate = 0.0
        self._step = 0
        self._pending: tuple[int, float, Tensor] | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch's learning rate."""
        self._rate = current_learning_rate(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Log the batch before this one, and keep this one where it is its turn."""
        self._flush(trainer)
        step, before = trainer.global_step, self._step
        self._step = step
        if step > before and step % self._interval == 0:  # with accumulation a step has several batches
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
