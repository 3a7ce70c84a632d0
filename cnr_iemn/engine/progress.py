"""What a person sees while it runs: a bar on a terminal, few lines in a file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import CustomBarColumn, RichProgressBarTheme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cnr_iemn.slices.classifier import SliceClassifier

T = TypeVar("T")
_BETWEEN_LINES = 10.0  # seconds
_BETWEEN_READINGS = 0.5  # seconds; each has a GPU wait


def duration(seconds: float) -> str:
    """Return h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


class _Speed(ProgressColumn):
    def __init__(self, unit: str, each: Callable[[], float] = lambda: 1.0, digits: int = 1) -> None:
        super().__init__()
        self._unit, self._each, self._digits = unit, each, digits

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self._each():.{self._digits}f} {self._unit}/s")


class _Left(ProgressColumn):
    def __init__(self, seconds: Callable[[], float | None]) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        seconds = self._seconds()
        return Text(f"{'-:--:--' if seconds is None else duration(seconds)} left")


def show_progress(
    items: Iterable[T], total: int, *, doing: str, unit: str, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Give the items on, and show how far they are: a bar on a terminal, else a line when it starts.

    Where it takes long, a line at most every tenth of the way, too. ``size``: how many of ``total`` an item is.
    """
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(unit))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{doing} {unit}", total=total)
            for item in items:
                yield item
                bar.advance(task, size(item))
        return
    print(f"{doing} {total} {unit} ...", flush=True)
    done, told = 0, time.monotonic()
    for item in items:
        yield item
        before, done = done, done + size(item)
        if done * 10 // total > before * 10 // total and time.monotonic() - told >= _BETWEEN_LINES:
            told = time.monotonic()
            print(f"  {done}/{total}", flush=True)


class TrainingBar(RichProgressBar):
    """Lightning's bar with loss and slice accuracy of the epoch so far, slices a second, and time left of the run."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, theme=RichProgressBarTheme(progress_bar="", progress_bar_finished=""))
        self._begun = self._read_at = 0.0
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
            _Left(lambda: self._seconds_left),
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the run's clock."""
        super().on_train_start(trainer, pl_module)
        self._begun, self._first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Estimate the time left from the time that the run has taken, validation included."""
        self._batch_size = max(self._batch_size, len(batch["label"]))  # the last of an epoch may be smaller
        done = trainer.current_epoch + (batch_idx + 1) / self.total_train_batches - self._first_epoch
        to_do = (trainer.max_epochs or 0) - self._first_epoch
        self._seconds_left = (time.monotonic() - self._begun) / done * (to_do - done)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return loss and accuracy of the epoch so far, read at most twice a second."""
        if trainer.training and time.monotonic() - self._read_at >= _BETWEEN_READINGS:
            assert isinstance(pl_module, SliceClassifier)
            self._figures = pl_module.train_metrics.running() or self._figures
            self._read_at = time.monotonic()
        return dict(self._figures)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
