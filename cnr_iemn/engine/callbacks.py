"""What is written, said and watched while a network trains."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnr_iemn.engine.distributed import first_process
from cnr_iemn.engine.progress import duration
from cnr_iemn.engine.scores import MACHINE
from cnr_iemn.errors import TrainingError
from cnr_iemn.files import write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.slices.datamodule import SliceBatch, SliceTable

_NO_METRICS = ("schema_version", "epoch", "seconds", MACHINE)


class EpochTable(Callback):
    """One row an epoch in metrics.csv and in every logger and, where no progress bar runs, one line on the terminal.

    A run that goes on takes the rows from its checkpoint: what an interrupted epoch has written later goes.
    """

    def __init__(self, path: Path, *, say: bool) -> None:
        self.path = path
        self.say = say
        self.rows: list[dict[str, float | int]] = []
        self._started = self._spent = 0.0
        self._epochs = 0  # of this process, as is the time spent on them

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
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table with this epoch's row. Validation, where there is one, has been logged by now."""
        seconds = time.monotonic() - self._started
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch, "seconds": round(seconds, 2), **values}
        self.rows.append({"schema_version": SCHEMA_VERSION, **row})
        self._write()
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
        if self.say:
            self._say(trainer, seconds, values)

    def _say(self, trainer: pl.Trainer, seconds: float, values: dict[str, float]) -> None:
        self._spent += seconds
        self._epochs += 1
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        left = self._spent / self._epochs * (epochs - epoch)
        shown = ("train/loss", "train/slice_accuracy", "val/loss", "val/slice_accuracy", "val/region_accuracy")
        figures = "  ".join(f"{key} {values[key]:.3f}" for key in shown if key in values)
        speed = f"{values[f'{MACHINE}slices_per_second']:.0f} slices/s"
        print(f"epoch {epoch}/{epochs}  {figures}  ({seconds:.0f} s, {speed}, {duration(left)} left)", flush=True)

    def _write(self) -> None:
        if not first_process():
            return
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.path, text.getvalue())


class FiniteLoss(Callback):
    """Stops a run whose loss is no number, with the slices of the batch. ``table``: of the training slices.

    Each loss is looked at one batch later, when it is known: looking at once would have a GPU wait.
    """

    def __init__(self, table: SliceTable) -> None:
        self._table = table
        self._pending: tuple[Tensor, Tensor, int, int] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Look at the loss before this one. Raises TrainingError."""
        self._look(trainer)
        self._pending = outputs["loss"].detach(), batch["slice"], trainer.current_epoch, batch_idx

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last one, before a checkpoint is written. Raises TrainingError."""
        self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        loss, rows, epoch, batch = self._pending
        self._pending = None
        finite = math.isfinite(float(loss))
        if trainer.world_size > 1:  # one for all, or the others would wait for it
            all_finite = trainer.strategy.reduce_boolean_decision(finite)
            if finite and not all_finite:
                raise TrainingError("The loss of another process is no number; that process says in which slices.")
        if finite:
            return
        slices: dict[str, list[int]] = {}
        for row in rows.tolist():
            scan_id = self._table.scan_ids[self._table.scan[row]]
            slices.setdefault(scan_id, []).append(int(self._table.slice_index[row]))
        shown = "; ".join(f"{scan_id}: {', '.join(map(str, sorted(set(k))))}" for scan_id, k in sorted(slices.items()))
        raise TrainingError(
            f"The loss is {float(loss)} in epoch {epoch + 1}, batch {batch + 1}: training has diverged. Lower "
            "trainer.learning_rate, try trainer.precision=32, or look at the batch's slices (scan: slice indices): "
            f"{shown}. What was learned up to the epoch before is kept."
        )


class EndsEarly(EarlyStopping):
    """Stops after ``patience`` epochs whose ``monitored`` metric is not above the best; a resumed run knows it had."""

    def __init__(self, monitored: str, *, patience: int) -> None:
        super().__init__(monitor=monitored, mode="max", patience=patience)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once where the checkpoint that the run goes on from is the one after which it stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class AveragedWeights(WeightAveraging):
    """Exponential moving average of weights and running statistics after each step (Polyak and Juditsky 1992).

    Validation and checkpoints have the average; what is trained goes on beside it. ``device``: of the training, which
    Lightning's own default is not: it makes the average before the network is moved there.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        super().__init__(device=device, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
