"""Weights & Biases: start and end of a run, charts, tables and artifacts beside the metrics."""

import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.errors import CnrIemnError, ConfigurationError, Termination
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.run_folder import RunFolder

log = logging.getLogger(__name__)

_BY_EPOCH = ("train/*", "val/*", "machine/*", "learning_rate", "seconds")
_STEP = "trainer/global_step"
_DATA_DIR = "WANDB_DATA_DIR"
_INIT_SECONDS, _UPLOAD_SECONDS = 60.0, 300.0
"""How long W&B is waited for when a run begins, and when it ends: a checkpoint may be a gigabyte."""


@dataclass(frozen=True)
class WorstSlice:
    """One labelled slice as the network sees it, and what it makes of it.

    ``grey``: lung window, uint8 [s, s]; ``lungs``: mask, 0 or 1, uint8 [s, s]; ``true_class`` and ``predicted_class``
    with the probability that the network gives each; ``class_loss``: focal.
    """

    grey: NDArray[np.uint8]
    lungs: NDArray[np.uint8]
    scan_id: str
    slice_index: int
    true_class: str
    predicted_class: str
    p_true: float
    p_predicted: float
    class_loss: float


class WandbRun(WandbLogger):
    """Lightning's logger on an open W&B run, with charts, tables and artifacts."""

    @rank_zero_only
    def log_confusion(self, confusion: list[list[int]], classes: Sequence[str], *, epoch: int, step: int) -> None:
        """Log W&B's chart of the validation slices of an epoch. ``confusion``: counts [true, predicted]."""
        import wandb

        cells: list[Iterable[Any]] = [
            (true, predicted, n)
            for true, row in zip(classes, confusion, strict=True)
            for predicted, n in zip(classes, row, strict=True)
        ]
        columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
        chart = wandb.plot_table(  # wandb.plot.confusion_matrix counts the slices itself; these are counted
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=cells),
            fields={str(name): name for name in columns},
            string_fields={"title": "Validation slices"},
        )
        self.experiment.log({"val/confusion_matrix": chart, "epoch": epoch, _STEP: step})

    @rank_zero_only
    def log_worst_slices(self, slices: Sequence[WorstSlice]) -> None:
        """Log a table of slices, each with its picture: grey, the lung mask over it."""
        import wandb

        texts = [entry.name for entry in fields(WorstSlice) if entry.name not in ("grey", "lungs")]
        table = wandb.Table(columns=["picture", *texts])
        for entry in slices:
            mask = {"mask_data": entry.lungs, "class_labels": {1: "lungs"}}
            picture = wandb.Image(entry.grey, mode="L", masks={"lungs": mask})
            table.add_data(picture, *(getattr(entry, name) for name in texts))
        self.experiment.log({"worst_slices": table})

    @rank_zero_only
    def log_result(self, values: Mapping[str, Any]) -> None:
        """Set the summary of the run in W&B's tables of runs."""
        self.experiment.summary.update(dict(values))

    @rank_zero_only
    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Log a checkpoint as an artifact, named after the run."""
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", type="model", metadata=dict(metadata))
        artifact.add_file(str(path), policy="immutable")  # as it is, not as a second copy
        self.experiment.log_artifact(artifact, aliases=[path.stem])


class ConfusionChart(Callback):
    """Logs the confusion matrix of the validation slices of each epoch to W&B.

    On rank 0 alone, which has the loggers; torchmetrics keeps what the ranks compute together for the module's hook.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log it; the module has counted all slices by now."""
        assert isinstance(pl_module, SliceClassifier)
        confusion: list[list[int]] = pl_module.val_metrics.compute()[0].tolist()
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.log_confusion(
                    confusion, pl_module.classes, epoch=trainer.current_epoch, step=trainer.global_step
                )


@contextmanager
def wandb_run(
    settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any], *, sweep: str | None = None
) -> Iterator[WandbRun]:
    """Open one W&B run: online where a key is set, else offline, to be uploaded later with ``wandb sync``.

    A run that goes on goes on in the same W&B run: its id is kept in run.json. Offline each start has a folder of its
    own under that id, which ``wandb sync`` joins in their order. The exit code is that of the process. ``sweep``: the
    name of the multirun, where the run is one of its jobs.
    """
    record = run.record() or {}
    if "wandb_id" not in record:
        run.update(wandb_id=uuid4().hex[:12])
    init_kwargs: dict[str, Any] = {
        "id": (run.record() or {})["wandb_id"],
        "resume": "allow",
        "name": f"{run.model}/{run.tag}",
        "group": run.study,
        "job_type": "train" if sweep is None else "sweep",
        "tags": [*settings.tags, run.model, *([] if sweep is None else [sweep])],
        "notes": record.get("notice"),
        "config": {**configuration, **{key: record[key] for key in ("hardware", "versions") if key in record}},
    }
    with start_run(settings, run.path, init_kwargs) as experiment:
        for name in ("epoch", _STEP):
            experiment.define_metric(name)
        for name in _BY_EPOCH:
            experiment.define_metric(name, step_metric="epoch")
        experiment.define_metric("step/*", step_metric=_STEP)
        yield WandbRun(experiment=experiment)


def logs_offline(settings: LoggerSettings) -> bool:
    """Return whether W&B logs to the disk alone: as configured, else where no key is set. Online, call its server.

    Raises:
        ConfigurationError: The server cannot be reached or rejects the key, or no key is set.
    """
    if settings.offline:
        return True
    import wandb

    with _reachable():
        has_key = wandb.login(prompt=False)
    if settings.offline is False and not has_key:
        raise ConfigurationError(
            "logger.offline=false needs a key of W&B, and there is none, or WANDB_MODE says otherwise. Run wandb "
            "login, or set WANDB_API_KEY; logger.offline=true logs without."
        )
    return not has_key


@contextmanager
def start_run(settings: LoggerSettings, folder: Path, init_kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Start a W&B run with these arguments of ``wandb.init`` and its files in ``folder``; end it with the block.

    Raises ConfigurationError as ``logs_offline``. A network that is lost later costs no run: see ``_finish``.
    """
    import wandb

    offline = logs_offline(settings)
    with _images_in_folder(folder, offline=offline):
        # begun here, not by Lightning, which sets WANDB_MODE for the whole process, and so for later jobs of a multirun
        with _reachable():
            experiment = wandb.init(
                project=settings.project,
                dir=folder,
                mode="offline" if offline else "online",
                settings=wandb.Settings(
                    silent=True, finish_timeout=_UPLOAD_SECONDS, finish_timeout_raises=True, init_timeout=_INIT_SECONDS
                ),
                **init_kwargs,
            )
        try:
            yield experiment
        except BaseException as error:
            _finish(experiment, _exit_code(error))
            raise
        _finish(experiment, 0)


@contextmanager
def _reachable() -> Iterator[None]:
    """Raise wandb's errors on network, key and settings as ConfigurationError."""
    import wandb

    try:
        yield
    except ValueError as error:  # its check of what the environment says, by pydantic
        raise ConfigurationError(
            f"W&B rejects a setting: {' '.join(str(error).split())}. Correct the variable of that name "
            "(WANDB_MODE for mode, and so on), or unset it."
        ) from error
    except wandb.errors.Error as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigurationError(
            f"W&B cannot be reached, or rejects the key ({reason}). Without a network add logger.offline=true "
            "(or set WANDB_MODE=offline) and upload later with wandb sync. With one, look at the key (WANDB_API_KEY, "
            "~/.netrc), at the address (WANDB_BASE_URL) and at the proxy (HTTPS_PROXY)."
        ) from error


def _finish(experiment: Any, exit_code: int) -> None:
    """End a W&B run; data that was not uploaded in time stays on the disk, with a message on how to upload it."""
    folder = Path(experiment.dir).parent
    try:
        experiment.finish(exit_code=exit_code)
    except TimeoutError:
        log.warning(
            "W&B has not received everything within %.0f seconds. The rest is kept here. Upload it later: %s",
            _UPLOAD_SECONDS,
            shlex.join(["wandb", "sync", str(folder)]),
        )


@contextmanager
def _images_in_folder(folder: Path, *, offline: bool) -> Iterator[None]:
    """Keep images of an offline run in its folder, not in the home directory, unless WANDB_DATA_DIR is set."""
    if not offline or _DATA_DIR in os.environ:
        yield
        return
    os.environ[_DATA_DIR] = str((folder / "wandb").absolute())
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Termination):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, CnrIemnError) else 1
