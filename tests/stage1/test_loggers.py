"""W&B offline, TensorBoard and MLflow, read with their own readers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.training.loggers.run_loggers import log_outcome, run_loggers
from cnr_iemn.stage1.training.loggers.wandb_logger import WandbRun
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.trainer import FittedRun
from tests.builders import make_predictions, make_scans


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


def test_mlflow_keeps_scalars_and_settings_and_a_resumed_run_goes_on(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run.start({"configuration": {}}, "")
    with run_loggers(LoggerSettings(name="mlflow"), run, {"seed": 7}, sweep="a") as (logger,):
        logger.log_metrics({"val/slice_accuracy": 0.75}, step=3)
        store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")  # another one, while the run goes on
        (entry,) = store.search_runs([store.get_experiment_by_name("study").experiment_id])
        assert (entry.info.status, entry.data.metrics) == ("RUNNING", {"val/slice_accuracy": 0.75})

    def stopped() -> None:
        with run_loggers(LoggerSettings(name="mlflow"), run, {"seed": 7}) as (logger,):
            logger.log_metrics({"val/slice_accuracy": 0.5}, step=4)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    (entry,) = client.search_runs([experiment.experiment_id])
    assert entry.info.run_name == "resnext50/seed0"
    assert entry.info.status == "FAILED"
    assert entry.data.params == {"seed": "7"}
    assert entry.data.tags["sweep"] == "a"
    history = client.get_metric_history(entry.info.run_id, "val/slice_accuracy")
    assert [(point.step, point.value) for point in history] == [(3, 0.75), (4, 0.5)]


def test_mlflow_s_store_is_asked_before_the_work(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    run.start({"configuration": {}}, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://someone:secret@nowhere")
    with (
        pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI") as refused,
        run_loggers(LoggerSettings(name="mlflow"), run, {}),
    ):
        pass
    assert "secret" not in str(refused.value)


def test_wandb_without_a_key_logs_offline_and_is_finished_even_after_a_failure(run: RunFolder) -> None:
    import wandb

    settings = LoggerSettings(name="wandb", project="tests")
    run.start({"configuration": {}}, "")
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


@pytest.mark.parametrize(("score", "logged"), [(0.5, 0.5), (float("nan"), "no labelled validation slices")])
def test_wandb_s_score_is_a_number_or_a_reason(score: float, logged: float | str) -> None:
    class Summary(WandbRun):
        def __init__(self) -> None:
            self.logged: dict[str, Any] = {}

        def log_result(self, values: Mapping[str, Any]) -> None:
            self.logged |= values

    logger = Summary()
    fitted = FittedRun("last", Path("last.ckpt"), "ab", score, {}, selected=False)
    predictions = make_predictions(scans=make_scans(1, 0))
    log_outcome([logger], LoggerSettings(name="wandb"), fitted, predictions, None, gamma=1.5)
    assert logger.logged["score"] == logged
