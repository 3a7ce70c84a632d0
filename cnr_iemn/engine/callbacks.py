"""What is written and said while a network trains."""

import csv
import io
import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from cnr_iemn.files import write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION


class EpochTable(Callback):
    """One row an epoch in metrics.csv and, where no progress bar runs, one line on the terminal."""

    def __init__(self, path: Path, *, say: bool) -> None:
        self.path = path
        self.say = say
        self.rows: list[dict[str, float | int]] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table with this epoch's row. Validation, where there is one, has been logged by now."""
        seconds = time.monotonic() - self._started
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if key != "loss"}
        epoch = trainer.current_epoch
        row = {"schema_version": SCHEMA_VERSION, "epoch": epoch, "seconds": round(seconds, 2), **values}
        self.rows.append(row)
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.path, text.getvalue())
        if self.say:
            shown = ("train/loss", "train/slice_accuracy", "val/loss", "val/slice_accuracy", "val/region_accuracy")
            figures = "  ".join(f"{key} {values[key]:.3f}" for key in shown if key in values)
            print(f"epoch {epoch + 1}/{trainer.max_epochs}  {figures}  ({seconds:.0f} s)", flush=True)
