"""Fit one network with Lightning and give back the checkpoint that counts."""

import logging
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger

from cnr_iemn.engine.callbacks import EpochTable, FiniteLoss
from cnr_iemn.engine.checkpoints import LastCheckpoint, RandomState, resumable
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.errors import TrainingError
from cnr_iemn.files import sha256_of_file
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceDataModule
from cnr_iemn.slices.network import SliceNetwork

MONITORED = "val/slice_accuracy"
SWEPT = "val/slice_balanced_accuracy"
"""What a sweep maximises: most slices are healthy, and plain accuracy rewards whoever calls all of them so."""


@dataclass(frozen=True)
class FittedRun:
    """What a fit has left behind.

    ``checkpoint``: best or last, the one whose weights the network now has. ``score``: its validation slice accuracy.
    Without validation slices ``checkpoint`` is last and ``score`` is NaN. ``metrics``: of the last epoch.
    """

    checkpoint: str
    checkpoint_path: Path
    checkpoint_sha256: str
    score: float
    metrics: dict[str, float]


def fit(
    classifier: SliceClassifier,
    data: SliceDataModule,
    run: RunFolder,
    *,
    hardware: Hardware,
    max_epochs: int,
    checkpoint: str,
    loggers: list[Logger],
    watch: Callback | None = None,
) -> FittedRun:
    """Train, keep best and last checkpoint, and load the one that counts into the classifier's network.

    ``watch``: sees every epoch before its checkpoint is written, and may end the training by raising.

    Goes on where checkpoints of this run are. Raises TrainingError.
    """
    interactive = sys.stderr.isatty() and sys.stdout.isatty()
    best = ModelCheckpoint(
        run.checkpoints,
        filename="best",
        monitor=MONITORED,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    table = EpochTable(run.path / "metrics.csv", say=not interactive)
    callbacks: list[Callback] = [FiniteLoss(data.training.table), table, RandomState()]
    if watch is not None:
        callbacks.append(watch)
    if data.validation is not None:
        callbacks.append(best)
    callbacks.append(LastCheckpoint(run.checkpoints))  # the last of all, so that it holds what the others know
    if interactive:
        callbacks.append(RichProgressBar())
    # Lightning's lines on devices and its advertisements; its warnings still come through
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator="gpu" if hardware.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if hardware.precision == "bf16" else "32-true",
        max_epochs=max_epochs,
        logger=loggers or False,
        callbacks=callbacks,
        default_root_dir=run.path,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
    classifier.network.to(memory_format=torch.channels_last)
    _fit_or_interrupt(trainer, classifier, data, resumable(run.checkpoints))
    chosen = "best" if checkpoint == "best" and data.validation is not None else "last"
    path = run.checkpoints / f"{chosen}.ckpt"
    load_weights(classifier.network, path)
    score = best.best_model_score if chosen == "best" else table.metrics.get(MONITORED)
    return FittedRun(chosen, path, sha256_of_file(path), float("nan") if score is None else float(score), table.metrics)


def load_weights(network: SliceNetwork, path: Path) -> None:
    """Load the network's weights from a checkpoint of a run. Nothing but tensors and plain values is unpickled."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _fit_or_interrupt(
    trainer: pl.Trainer, classifier: SliceClassifier, data: SliceDataModule, start: Path | None
) -> None:
    """Fit. Lightning ends the process with code 1 on Ctrl-C; here that stays a KeyboardInterrupt for the caller."""
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
            trainer.fit(classifier, datamodule=data, ckpt_path=start, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # a scheduler's signal that requeues exits, too
            raise KeyboardInterrupt from error
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingError(
            f"The memory does not hold a batch ({str(error).splitlines()[0][:200]}). Lower trainer.batch_size, now "
            f"{data.batch_size}, or model.image_size, now {data.training.image_size}."
        ) from error
    finally:
        signal.signal(signal.SIGINT, cast(signal.Handlers, handler))
