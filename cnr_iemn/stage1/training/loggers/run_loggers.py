"""Loggers beside metrics.csv, which is always written."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger

from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage1.data.datamodule import SliceDataset
from cnr_iemn.stage1.training.loggers.wandb_logger import WandbRun, WorstSlice, logs_offline, wandb_run
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.trainer import FittedRun
from cnr_iemn.statistics.metrics import NO_SLICES
from cnr_iemn.utils.packages import require_package

_RUN_TAG = "cnr_iemn_run_id"
"""Tag of an MLflow run: the random name that run.json and its checkpoints share, which a resumed run keeps."""


@contextmanager
def run_loggers(
    settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any], *, sweep: str | None = None
) -> Iterator[list[Logger]]:
    """Yield the loggers of one run and close them when the block ends, also by an error.

    Args:
        settings: Which logger.
        run: The run's folder, where they write.
        configuration: Settings that W&B shows with the run.
        sweep: Name of the multirun, where the run is one of its jobs.
    """
    if settings.name == "csv":
        yield []
    elif settings.name == "tensorboard":
        yield [_tensorboard(run.path)]
    elif settings.name == "mlflow":
        with _mlflow(settings, run, configuration, sweep=sweep) as logger:
            yield [logger]
    else:
        with wandb_run(settings, run, configuration, sweep=sweep) as logger:
            yield [logger]


def require_server(settings: LoggerSettings) -> None:
    """Raise ConfigurationError where W&B is to log online and its server cannot be reached: before the work."""
    if settings.name == "wandb":
        logs_offline(settings)


def log_outcome(
    loggers: Iterable[Logger],
    settings: LoggerSettings,
    fitted: FittedRun,
    predictions: Predictions,
    validation: SliceDataset | None,
    *,
    gamma: float,
) -> None:
    """Log result, worst slices and checkpoint to W&B; other loggers take scalars alone. ``gamma``: of focal loss."""
    score = fitted.score if math.isfinite(fitted.score) else NO_SLICES
    outcome = {"score": score, "checkpoint": fitted.checkpoint, "checkpoint_sha256": fitted.checkpoint_sha256}
    for logger in loggers:
        if not isinstance(logger, WandbRun):
            continue
        logger.log_result(outcome)
        if validation is not None and settings.worst_slices > 0:
            logger.log_worst_slices(worst_slices(predictions, validation, n=settings.worst_slices, gamma=gamma))
        if settings.log_checkpoint:
            logger.log_checkpoint(fitted.checkpoint_path, outcome)


def _tensorboard(folder: Path) -> Logger:
    require_package("tensorboard", "logger=tensorboard", "or use logger=csv")
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


@contextmanager
def _mlflow(
    settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any], *, sweep: str | None
) -> Iterator[Logger]:
    """Yield MLflow's logger of a run, in the experiment of its study; a resumed run goes on with its MLflow run.

    The store is that of MLFLOW_TRACKING_URI, or mlflow.db in the folder of all runs.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported: it would call home
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.parents[2] / 'mlflow.db'}"
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(run.study)
        text = f"tags.{_RUN_TAG} = '{run.run_id}'"
        matches = client.search_runs([experiment.experiment_id], text) if experiment else []
    except MlflowException as error:
        reason = error.message.replace(uri, "its address")  # which may hold a password
        raise ConfigurationError(
            f"logger=mlflow cannot use the store of MLFLOW_TRACKING_URI, or mlflow.db among the runs: {reason} Correct "
            "the variable, or use logger=csv."
        ) from error
    tags = {_RUN_TAG: run.run_id, "model": run.model, "tag": run.tag, "tags": ", ".join(settings.tags)}
    logger = MLFlowLogger(
        experiment_name=run.study,
        run_name=f"{run.model}/{run.tag}",
        tracking_uri=uri,
        tags=tags | ({"sweep": sweep} if sweep else {}),
        run_id=matches[0].info.run_id if matches else None,
    )
    if not matches:
        logger.log_hyperparams(dict(configuration))
    try:
        yield logger
    except BaseException:
        logger.finalize("failed")
        raise
    logger.finalize("success")


def worst_slices(predictions: Predictions, slices: SliceDataset, *, n: int, gamma: float) -> list[WorstSlice]:
    """Return the ``n`` labelled slices of ``slices`` with the highest class loss, the highest first.

    ``gamma``: of the focal loss, which falls as the probability of the true class rises.
    """
    table, slice_table = predictions.table, slices.table
    classes = predictions.metadata.classes
    rows = {
        (slice_table.scan_ids[slice_table.scan[k]], int(slice_table.slice_index[k])): k for k in range(len(slice_table))
    }
    labelled = table[table["slice_label"].notna() & table["scan_id"].isin(slice_table.scan_ids)]
    probabilities = labelled[probability_columns(classes)].to_numpy(np.float64)
    true = np.array([classes.index(name) for name in labelled["slice_label"]], dtype=np.int64)
    p_true = probabilities[np.arange(len(true)), true]
    worst = []
    for k in np.argsort(p_true, kind="stable")[:n]:
        scan_id, slice_index = str(labelled["scan_id"].iloc[k]), int(labelled["slice_index"].iloc[k])
        grey, lungs, _ = slices[rows[scan_id, slice_index]]["image"].numpy()
        predicted = int(probabilities[k].argmax())
        worst.append(
            WorstSlice(
                grey=grey,
                lungs=lungs // 255,
                scan_id=scan_id,
                slice_index=slice_index,
                true_class=classes[true[k]],
                predicted_class=classes[predicted],
                p_true=float(p_true[k]),
                p_predicted=float(probabilities[k, predicted]),
                class_loss=float((1 - p_true[k]) ** gamma * -np.log(max(p_true[k], np.finfo(np.float64).tiny))),
            )
        )
    return worst
