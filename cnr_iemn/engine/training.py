"""Fit one network with Lightning and give back the checkpoint that counts."""

import logging
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger

from cnr_iemn.engine.callbacks import AveragedWeights, EndsEarly, EpochTable, FiniteLoss
from cnr_iemn.engine.checkpoints import EpochSeed, LastCheckpoint, resumable
from cnr_iemn.engine.distributed import SameBuffers, first_process, trainer_arguments
from cnr_iemn.engine.hardware import Hardware, deterministic, fastest_convolutions
from cnr_iemn.engine.progress import TrainingBar
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.scores import EpochScores, StepScalars
from cnr_iemn.errors import RunError, TrainingError
from cnr_iemn.files import sha256_of_file
from cnr_iemn.settings.schema import TrainerSettings
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceDataModule
from cnr_iemn.slices.network import SliceNetwork

MONITORED = "val/slice_accuracy"
_STEPS_BETWEEN_SCALARS = 10
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "unable to find an engine")
"""What torch says where memory is too small and it raises no error of its own: on the CPU, in cuBLAS, in cuDNN."""
_LOST_LOADER = "DataLoader worker"
SWEPT = "val/slice_balanced_accuracy"
"""What a sweep maximises: most slices are healthy, and plain accuracy rewards whoever calls all of them so."""


@dataclass(frozen=True)
class FittedRun:
    """What a fit has left behind.

    ``checkpoint``: best or last, the one whose weights the network now has. ``score``: its validation slice accuracy.
    Without validation slices ``checkpoint`` is last and ``score`` is NaN. ``metrics``: of the last epoch. ``selected``:
    the validation slices chose the checkpoint or when to stop.
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
    classes: tuple[str, ...],
    hardware: Hardware,
    settings: TrainerSettings,
    loggers: list[Logger],
    watch: Callback | None = None,
) -> FittedRun:
    """Train, keep best and last checkpoint, and load the one that counts into the classifier's network.

    ``watch``: sees every epoch before its checkpoint is written, and may end the training by raising.

    Goes on where checkpoints of this run are. Raises TrainingError.
    """
    interactive = first_process() and sys.stderr.isatty() and sys.stdout.isatty()
    table = EpochTable(run.path / "metrics.csv", say=not interactive)
    best = _best_checkpoint(run, averaged=settings.ema is not None)
    # Lightning's lines on devices and its advertisements; its warnings still come through
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    callbacks = [EpochScores(classes), *_callbacks(data, run, settings, hardware, table, best, watch)]
    if loggers:
        callbacks.append(StepScalars(every=_STEPS_BETWEEN_SCALARS))
    if interactive:
        callbacks.append(TrainingBar())
    trainer = pl.Trainer(
        **trainer_arguments(hardware),
        precision="bf16-mixed" if hardware.precision == "bf16" else "32-true",
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        logger=loggers or False,
        callbacks=callbacks,
        default_root_dir=run.path,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    classifier.network.to(memory_format=torch.channels_last)
    with deterministic(settings.deterministic), fastest_convolutions(hardware.on_gpu and not settings.deterministic):
        _fit_or_interrupt(trainer, classifier, data, run)
    return _outcome(classifier, data, run, settings, table, best)


def _outcome(
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    settings: TrainerSettings,
    table: EpochTable,
    best: ModelCheckpoint,
) -> FittedRun:
    """Load the weights of the checkpoint that counts."""
    validated = data.validation is not None
    chosen = "best" if settings.checkpoint == "best" and validated else "last"
    path = run.checkpoints / f"{chosen}.ckpt"
    load_weights(classifier.network, path)
    score = best.best_model_score if chosen == "best" else table.metrics.get(MONITORED)
    return FittedRun(
        chosen,
        path,
        sha256_of_file(path),
        float("nan") if score is None else float(score),
        table.metrics,
        selected=validated and (chosen == "best" or settings.early_stopping is not None),
    )


def _best_checkpoint(run: RunFolder, *, averaged: bool) -> ModelCheckpoint:
    return ModelCheckpoint(
        run.checkpoints,
        filename="best",
        monitor=MONITORED,
        mode="max",
        save_weights_only=not averaged,  # weights alone would be those that were not averaged
        enable_version_counter=False,
    )


def _callbacks(
    data: SliceDataModule,
    run: RunFolder,
    settings: TrainerSettings,
    hardware: Hardware,
    table: EpochTable,
    best: ModelCheckpoint,
    watch: Callback | None,
) -> list[Callback]:
    callbacks: list[Callback] = [FiniteLoss(data.training.table), table, EpochSeed(data.seed)]
    if watch is not None:
        callbacks.append(watch)
    if settings.ema is not None:
        callbacks.append(AveragedWeights(settings.ema, hardware.device))
    callbacks.append(SameBuffers())  # after the averages have taken their place
    if data.validation is not None:
        callbacks.append(best)
        if settings.early_stopping is not None:
            callbacks.append(EndsEarly(MONITORED, patience=settings.early_stopping))
    callbacks.append(LastCheckpoint(run.checkpoints))  # the last of all, so that it holds what the others know
    return callbacks


def load_weights(network: SliceNetwork, path: Path) -> None:
    """Load the network's weights from a checkpoint of a run. Nothing but tensors and plain values is unpickled.

    Raises RunError where it holds anything else: a pickle can run code of its own.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is no checkpoint of a run, or holds more than tensors and plain values, which could run code of "
            "its own: nothing of it was run. Take the checkpoint that train.py has written, or train again."
        ) from error
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _fit_or_interrupt(trainer: pl.Trainer, classifier: SliceClassifier, data: SliceDataModule, run: RunFolder) -> None:
    """Fit, from the checkpoint that the first process finds.

    Lightning ends the process with code 1 on Ctrl-C; here that stays a KeyboardInterrupt for the caller.
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
            start = trainer.strategy.broadcast(resumable(run.checkpoints) if trainer.is_global_zero else None)
            trainer.fit(classifier, datamodule=data, ckpt_path=start, weights_only=True)
            trainer.strategy.barrier()  # the first process has renamed its files
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # a scheduler's signal that requeues exits, too
            raise KeyboardInterrupt from error
        raise
    except (MemoryError, RuntimeError) as error:
        reason = _reason(error, data)
        if reason is None:
            raise
        raise TrainingError(reason) from error
    finally:
        signal.signal(signal.SIGINT, cast(signal.Handlers, handler))


def _reason(error: Exception, data: SliceDataModule) -> str | None:
    """Return why the training cannot go on and what to do, None where the error is a fault of the program."""
    said = (str(error).splitlines() or [""])[0][:200]
    if _LOST_LOADER in str(error):
        return (
            f"A process that loads data was lost ({said}). Most often the shared memory for its batches is too small, "
            "as in a container by default: give it more (docker's --shm-size), or lower trainer.workers, now "
            f"{data.workers}; 0 loads without."
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return (
            f"The memory does not hold a batch ({said}). Raise trainer.accumulate, now {data.parts}: the same batch in "
            f"more parts. Or lower trainer.batch_size, now {data.batch_size}, or model.image_size, now "
            f"{data.training.image_size}."
        )
    return None
