"""Loggers beside metrics.csv, which is always written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.training import FittedRun
from cnr_iemn.engine.wandb_run import WandbRun, wandb_run
from cnr_iemn.engine.worst_slices import worst_slices
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.settings.schema import LoggerSettings
from cnr_iemn.slices.datamodule import SliceDataset


@contextmanager
def run_loggers(settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """Open the loggers of one run; whatever happens inside, they are finished at the end."""
    if settings.name == "csv":
        yield []
    elif settings.name == "tensorboard":
        yield [_tensorboard(run.path)]
    else:
        with wandb_run(settings, run, configuration) as logger:
            yield [logger]


def log_outcome(
    loggers: Iterable[Logger],
    settings: LoggerSettings,
    fitted: FittedRun,
    predictions: Predictions,
    validation: SliceDataset | None,
    *,
    gamma: float,
) -> None:
    """Give W&B what is known at the end; the other loggers take scalars alone. ``gamma``: of the focal loss."""
    outcome = {"score": fitted.score, "checkpoint": fitted.checkpoint, "checkpoint_sha256": fitted.checkpoint_sha256}
    for logger in loggers:
        if not isinstance(logger, WandbRun):
            continue
        logger.log_result(outcome)
        if validation is not None and settings.worst_slices > 0:
            logger.log_worst_slices(worst_slices(predictions, validation, n=settings.worst_slices, gamma=gamma))
        if settings.log_checkpoint:
            logger.log_checkpoint(fitted.checkpoint_path, outcome)


def _tensorboard(folder: Path) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "logger=tensorboard needs the package tensorboard, which is not installed. Install it with "
            "pip install 'cnr-iemn[tensorboard]', or use logger=csv."
        ) from error
