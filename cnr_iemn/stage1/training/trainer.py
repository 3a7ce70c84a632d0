"""Train one network with Lightning's Trainer and return the selected checkpoint."""

import logging
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

from cnr_iemn.config.schema.debug import DebugSettings
from cnr_iemn.config.schema.settings import TrainerSettings
from cnr_iemn.errors import RunError, TrainingError
from cnr_iemn.stage1.data.datamodule import SliceDataModule
from cnr_iemn.stage1.training.callbacks import (
    AveragedWeights,
    EpochSeed,
    MetricsCsv,
    NanGuard,
    ResumableEarlyStopping,
    StepMetrics,
)
from cnr_iemn.stage1.training.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    load_weights,
    resumable,
    strip_checkpoint,
)
from cnr_iemn.stage1.training.distributed import BroadcastBuffers, first_process, require_one_run, trainer_arguments
from cnr_iemn.stage1.training.failures import training_failure
from cnr_iemn.stage1.training.hardware import Hardware, cudnn_benchmark, deterministic
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.loggers.accuracy_messages import AccuracyGap
from cnr_iemn.stage1.training.loggers.progress import TrainingBar
from cnr_iemn.stage1.training.loggers.wandb_logger import ConfusionChart
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.utils.atomic_io import sha256_of_file

_LOG_INTERVAL = 10
TUNING_METRIC = "val/slice_balanced_accuracy"
"""Objective of a tuning study: most slices are healthy, and plain accuracy would reward a constant answer."""


@dataclass(frozen=True)
class FittedRun:
    """The result of ``fit``.

    Attributes:
        checkpoint: best or last: the one whose weights the network has; last without validation slices.
        checkpoint_path: Its file.
        checkpoint_sha256: Of that file.
        score: Validation accuracy of the checkpoint, of slices or, in bags, of scans, 0 to 1; NaN without validation
            slices.
        metrics: Of the last epoch.
        selected: Whether the validation slices chose the checkpoint or when to stop.
    """

    checkpoint: str
    checkpoint_path: Path
    checkpoint_sha256: str
    score: float
    metrics: dict[str, float]
    selected: bool


def fit(
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    *,
    hardware: Hardware,
    settings: TrainerSettings,
    loggers: list[Logger],
    extra_callback: Callback | None = None,
) -> FittedRun:
    """Train, write the checkpoints, and load the selected one into the classifier's network.

    Resumes from the run's checkpoints, if there are any.

    Args:
        classifier: The network with its losses.
        data: Training and validation slices.
        run: The run's folder; run.json has been written.
        hardware: Device, precision and processes.
        settings: Of the trainer.
        loggers: Beside metrics.csv.
        extra_callback: Called at the end of every epoch before its checkpoint is written; ends the training by raising.

    Returns:
        The selected checkpoint and its score.

    Raises:
        TrainingError: The loss is not finite, or the memory too small.
        RunError: The checkpoints are not this run's.
    """
    best = BestCheckpoint(run.checkpoints, classifier.checkpoint_metric)
    callbacks = _epoch_callbacks(classifier, data, run, settings, hardware, best, extra_callback)
    if loggers:
        callbacks += [StepMetrics(interval=_LOG_INTERVAL), ConfusionChart()]
    trainer, table = _make_trainer(data, run, hardware, settings, callbacks, logger=loggers or False)
    _train(trainer, classifier, data, run, hardware, settings)
    return _select_checkpoint(trainer, classifier, data, run, settings, table, best)


def debug_fit(
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    *,
    hardware: Hardware,
    settings: TrainerSettings,
    debug: DebugSettings,
) -> dict[str, float]:
    """Train as a debug mode does, without loggers and checkpoints; return the metrics of the last epoch.

    The arguments are those of ``fit``; a profile is written into the run's folder. Raises TrainingError as ``fit``.
    """
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "fast_dev_run": debug.fast_dev_run,
        "overfit_batches": debug.overfit_batches,
        "profiler": profilers[debug.profiler](run.path, "profile") if debug.profiler else None,
    }
    trainer, table = _make_trainer(data, run, hardware, settings, [BroadcastBuffers()], **options)
    _train(trainer, classifier, data, run, hardware, settings)
    return table.metrics


def _make_trainer(
    data: SliceDataModule,
    run: RunFolder,
    hardware: Hardware,
    settings: TrainerSettings,
    callbacks: list[Callback],
    **options: Any,
) -> tuple[pl.Trainer, MetricsCsv]:
    """Return Lightning's Trainer and its table of metrics. ``callbacks``: those that not every training has."""
    interactive = first_process() and sys.stderr.isatty() and sys.stdout.isatty()
    table = MetricsCsv(run.path / "metrics.csv", verbose=not interactive)
    # Lightning's lines on devices and its advertisements; its warnings still come through
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    arguments = trainer_arguments(hardware)
    trainer = pl.Trainer(
        **{**arguments, "plugins": [*arguments.get("plugins", []), AtomicCheckpointIO()]},
        precision=hardware.trainer_precision,
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        callbacks=[
            TermHandler(),
            NanGuard(data.training.table),
            table,
            EpochSeed(data.seed),
            *callbacks,
            *([TrainingBar()] if interactive else []),
        ],
        default_root_dir=run.path,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    return trainer, table


def _train(
    trainer: pl.Trainer,
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    hardware: Hardware,
    settings: TrainerSettings,
) -> None:
    classifier.network.to(memory_format=torch.channels_last)
    with deterministic(settings.deterministic), cudnn_benchmark(hardware.on_gpu and not settings.deterministic):
        _fit_or_interrupt(trainer, classifier, data, run)


def _select_checkpoint(
    trainer: pl.Trainer,
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    settings: TrainerSettings,
    table: MetricsCsv,
    best: BestCheckpoint,
) -> FittedRun:
    """Load the weights of the selected checkpoint."""
    validated = data.validation is not None
    name = "best" if settings.checkpoint == "best" and validated else "last"
    path = run.checkpoints / f"{name}.ckpt"
    if name == "last" and not settings.keep_last and first_process():
        strip_checkpoint(path)
    if name == "best" and first_process():
        best.restore()  # where all epochs were trained before, Lightning has called no callback
    trainer.strategy.barrier()
    load_weights(classifier.network, path)
    score = best.best_model_score if name == "best" else table.metrics.get(classifier.checkpoint_metric)
    if validated and score is None:
        raise RunError(f"{run.path} has no score, although it has validation slices. Train it again (overwrite=true).")
    return FittedRun(
        name,
        path,
        sha256_of_file(path),
        float("nan") if score is None else float(score),
        table.metrics,
        selected=validated and (name == "best" or settings.early_stopping is not None),
    )


def _epoch_callbacks(
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    settings: TrainerSettings,
    hardware: Hardware,
    best: BestCheckpoint,
    extra_callback: Callback | None,
) -> list[Callback]:
    # trials of a study vary the augmentation by design, so that they need no AccuracyGap
    callbacks: list[Callback] = [extra_callback or AccuracyGap(data, classifier.classes)]
    if settings.ema is not None:
        callbacks.append(AveragedWeights(settings.ema, hardware.device))
    callbacks.append(BroadcastBuffers())  # after the averages have taken their place
    if data.validation is not None:
        callbacks.append(best)
        if settings.early_stopping is not None:
            callbacks.append(ResumableEarlyStopping(classifier.checkpoint_metric, patience=settings.early_stopping))
    callbacks.append(
        LastCheckpoint(run.checkpoints, run.run_id if first_process() else "")
    )  # the last of all, so that it holds what the others know
    return callbacks


class TermHandler(Callback):
    """Keeps the present handler of SIGTERM: Lightning's ends a process with exit code 0."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore it after Lightning has set its own."""
        if threading.current_thread() is threading.main_thread() and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


def _fit_or_interrupt(trainer: pl.Trainer, classifier: SliceClassifier, data: SliceDataModule, run: RunFolder) -> None:
    """Fit, from the checkpoint that the first process finds.

    Lightning ends the process with code 1 on Ctrl-C; here that stays the KeyboardInterrupt that it was.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            # loading in the main process is meant on a CPU, where workers would take the network's cores
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # few batches in an epoch are normal for a small cohort; the figures are logged at the epoch's end
            warnings.filterwarnings("ignore", message=".*number of training batches.*")
            # an empty list of loaders says that there is no validation split
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")
            # between Lightning and torch, nothing that we call
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            # a run that goes on finds its own
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.")
            # its successor is not in the older releases of torch that we support
            warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
            trainer.strategy.setup_environment()  # so that the processes of a run can agree where it goes on
            require_one_run(trainer, (run.study, run.model, run.tag))
            start = trainer.strategy.broadcast(
                resumable(run.checkpoints, classifier.network.state_dict(), run.run_id)
                if trainer.is_global_zero
                else None
            )
            trainer.fit(classifier, datamodule=data, ckpt_path=start, weights_only=True)
            trainer.strategy.barrier()  # the first process has renamed its files
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # a scheduler's signal that requeues exits, too
            raise error.__context__ from None
        raise
    except (MemoryError, RuntimeError) as error:
        reason = training_failure(error, data)
        if reason is None:
            raise
        raise TrainingError(reason) from error
    finally:
        signal.signal(signal.SIGINT, cast(signal.Handlers, handler))
