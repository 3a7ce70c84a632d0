"""Progress: a bar on a terminal, few lines in a log file."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import CustomBarColumn, RichProgressBarTheme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cnr_iemn.stage1.training.lightning_module import SliceClassifier

log = logging.getLogger(__name__)

T = TypeVar("T")
LINE_SECONDS = 180.0
"""Time after which a long task in a log file prints a line."""
_LINE_INTERVAL = 10.0  # seconds, at least, between lines
_READ_INTERVAL = 0.5  # seconds; reading the metrics makes a GPU wait


def format_duration(seconds: float) -> str:
    """Return h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def epoch_figures(values: Mapping[str, float]) -> str:
    """Return loss, accuracy, balanced accuracy and the recall of each class, of the validation slices if there are any.

    Args:
        values: Metrics of an epoch, as in metrics.csv.
    """
    side, slices = ("val", "validation") if "val/loss" in values else ("train", "training")
    loss = f"loss {values['train/loss']:.3f}" + (f", validation {values['val/loss']:.3f}" if side == "val" else "")
    prefix = f"{side}/recall_"
    recalls = (f"{key.removeprefix(prefix)} {value:.0%}" for key, value in values.items() if key.startswith(prefix))
    return (
        f"{loss}; {slices} slices: accuracy {values[f'{side}/slice_accuracy']:.1%}, balanced "
        f"{values[f'{side}/slice_balanced_accuracy']:.1%}, recall {', '.join(recalls)}"
    )


class _Speed(ProgressColumn):
    def __init__(self, unit: str, factor: Callable[[], float] = lambda: 1.0, digits: int = 1) -> None:
        super().__init__()
        self._unit, self._factor, self._digits = unit, factor, digits

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self._factor():.{self._digits}f} {self._unit}/s")


class _TimeLeft(ProgressColumn):
    def __init__(self, seconds: Callable[[], float | None]) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        seconds = self._seconds()
        return Text(f"{'-:--:--' if seconds is None else format_duration(seconds)} left")


def show_progress(
    items: Iterable[T], total: int, *, verb: str, unit: str, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield the items and show progress: a bar on a terminal, otherwise a line at the start.

    A long task also prints a line after every tenth of it, and one every few minutes.

    Args:
        items: What is yielded.
        total: Number of units in all items.
        verb: What happens to them, such as Preparing.
        unit: Name of the units, in the plural.
        size: Returns the number of units of an item.
    """
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(unit))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{verb} {unit}", total=total)
            for item in items:
                yield item
                bar.advance(task, size(item))
        return
    log.info("%s %d %s ...", verb, total, unit)
    done, tenths, line_time = 0, 0, time.monotonic()
    for item in items:
        yield item
        done += size(item)
        seconds = time.monotonic() - line_time
        if (done * 10 // total > tenths and seconds >= _LINE_INTERVAL) or seconds >= LINE_SECONDS:
            line_time, tenths = time.monotonic(), done * 10 // total
            log.info("  %d/%d", done, total)


class TrainingBar(RichProgressBar):
    """Lightning's bar with loss and slice accuracy of the epoch so far, slices a second, and time left of the run."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, theme=RichProgressBarTheme(progress_bar="", progress_bar_finished=""))
        self._start = self._read_time = 0.0
        self._first_epoch = 0
        self._batch_size = 1
        self._figures: dict[str, float] = {}
        self._seconds_left: float | None = None

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Return the columns before the figures of ``get_metrics``; all of it fits into 80 characters."""
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(bar_width=10),
            _Speed("slices", lambda: self._batch_size * trainer.world_size, digits=0),
            _TimeLeft(lambda: self._seconds_left),
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the run's clock."""
        super().on_train_start(trainer, pl_module)
        self._start, self._first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Estimate the time left from the time that the run has taken, validation included."""
        if batch_idx == 0:  # the last of an epoch is smaller or larger
            self._batch_size = len(batch["label"])
        done = trainer.current_epoch + (batch_idx + 1) / self.total_train_batches - self._first_epoch
        to_do = (trainer.max_epochs or 0) - self._first_epoch
        self._seconds_left = (time.monotonic() - self._start) / done * (to_do - done)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return loss and accuracy of the epoch so far, read at most twice a second."""
        if trainer.training and time.monotonic() - self._read_time >= _READ_INTERVAL:
            assert isinstance(pl_module, SliceClassifier)
            self._figures = pl_module.train_metrics.running_averages() or self._figures
            self._read_time = time.monotonic()
        return dict(self._figures)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
