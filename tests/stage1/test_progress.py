"""Lines of a log file: at the start of a task, and every few minutes of a long one."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from cnr_iemn.stage1.training import callbacks
from cnr_iemn.stage1.training.callbacks import MetricsCsv
from cnr_iemn.stage1.training.loggers import progress


class Clock:
    """A clock that the tests set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_long_epoch_prints_a_line_every_few_minutes(clock: Clock, tmp_path: Any, capsys: Any) -> None:
    """An epoch of two hours, validation included; the module's own silence is at most three minutes and a batch."""
    table = MetricsCsv(tmp_path / "metrics.csv", verbose=True)
    trainer: Any = SimpleNamespace(current_epoch=2, max_epochs=10, num_training_batches=600, num_val_batches=[120])
    times, module = [clock.now], pl.LightningModule()
    table.on_train_epoch_start(trainer, module)
    for batch in range(720):
        clock.now += 10
        if batch < 600:
            table.on_train_batch_end(trainer, module, None, None, batch)
        else:
            table.on_validation_batch_end(trainer, module, None, None, batch - 600)
        if printed := capsys.readouterr().out:
            assert printed.startswith("  epoch 3/10, ")
            times.append(clock.now)
    assert printed == "  epoch 3/10, validation batch 120/120 after 2:00:00\n"
    assert max(after - before for before, after in pairwise(times)) <= 190
    assert len(times) <= 41


def test_without_a_log_file_nothing_is_printed(clock: Clock, tmp_path: Any, capsys: Any) -> None:
    table = MetricsCsv(tmp_path / "metrics.csv", verbose=False)
    clock.now = 1e6
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=1, num_training_batches=2)
    table.on_train_batch_end(trainer, pl.LightningModule(), None, None, 0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "lines"), [(0.001, 1), (3.0, 11), (3600.0, 101)])
def test_a_long_task_is_never_silent_for_more_than_a_few_minutes(
    seconds: float, lines: int, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    for _ in progress.show_progress(range(100), 100, verb="Predicting", unit="slices"):
        clock.now += seconds
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Predicting 100 slices ..."
    assert len(printed) == lines
