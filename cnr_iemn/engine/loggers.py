"""Loggers beside metrics.csv, which is always written. The only module that knows wandb."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.settings.schema import LoggerSettings


@contextmanager
def run_loggers(settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """Open the loggers of one run; whatever happens inside, they are finished at the end."""
    if settings.name == "csv":
        yield []
    elif settings.name == "tensorboard":
        yield [_tensorboard(run.path)]
    else:
        with _wandb(settings, run, configuration) as logger:
            yield [logger]


def _tensorboard(folder: Path) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "logger=tensorboard needs the package tensorboard, which is not installed. Install it with "
            "pip install 'cnr-iemn[tensorboard]', or use logger=csv."
        ) from error


@contextmanager
def _wandb(settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any]) -> Iterator[Logger]:
    """Open one W&B run: online where a key is set, else offline, to be uploaded later with ``wandb sync``."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    offline = settings.offline if settings.offline is not None else not wandb.login(prompt=False)
    # begun here, not by Lightning, which sets WANDB_MODE for the whole process (and so for later jobs of a multirun)
    experiment = wandb.init(
        project=settings.project,
        name=f"{run.model}/{run.tag}",
        group=run.study,
        dir=run.path,
        config=dict(configuration),
        mode="offline" if offline else "online",
        settings=wandb.Settings(silent=True),
    )
    failed = True
    try:
        yield WandbLogger(experiment=experiment)
        failed = False
    finally:
        experiment.finish(exit_code=int(failed))
