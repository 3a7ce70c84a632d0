"""W&B offline and TensorBoard: what a run leaves, read back with their own readers."""

import os
from pathlib import Path

import pytest

from cnr_iemn.engine.loggers import run_loggers
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.settings.schema import LoggerSettings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    folder = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    folder.path.mkdir(parents=True)
    return folder


def test_csv_opens_nothing(run: RunFolder) -> None:
    with run_loggers(LoggerSettings(name="csv"), run, {}) as loggers:
        assert loggers == []
    assert list(run.path.iterdir()) == []


def test_tensorboard_writes_scalars_that_its_reader_finds(run: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with run_loggers(LoggerSettings(name="tensorboard"), run, {}) as (logger,):
        logger.log_metrics({"val/slice_accuracy": 0.75}, step=3)
        logger.finalize("success")
    (events,) = run.path.rglob("events.out.tfevents*")
    reader = accumulator.EventAccumulator(str(events.parent))
    reader.Reload()
    (event,) = reader.Scalars("val/slice_accuracy")
    assert (event.step, event.value) == (3, 0.75)


def test_wandb_without_a_key_logs_offline_and_is_finished_even_after_a_failure(run: RunFolder) -> None:
    import wandb

    settings = LoggerSettings(name="wandb", project="tests")
    for failing in (False, True):
        try:
            with run_loggers(settings, run, {"seed": 7}) as (logger,):
                logger.log_metrics({"val/slice_accuracy": 0.75}, step=3)
                if failing:
                    raise RuntimeError
        except RuntimeError:
            assert failing
        assert wandb.run is None
    folders = sorted((run.path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    for folder in folders:
        assert next(folder.glob("run-*.wandb")).stat().st_size > 0
