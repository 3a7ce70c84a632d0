"""What an interrupted run goes on from: the state at the end of an epoch, with nothing left to chance."""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from cnr_iemn.errors import RunError

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch and keeps the one before it as ``previous.ckpt``.

    A kill at any moment leaves one of the two whole.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, after all that measures the epoch."""
        new, last = self.folder / ".next.ckpt", self.folder / LAST
        trainer.save_checkpoint(new, weights_only=False)  # optimizer, schedule and callbacks too; said, or it is logged
        if not trainer.is_global_zero:
            return
        if last.exists():
            os.replace(last, self.folder / PREVIOUS)
        os.replace(new, last)


class EpochSeed(Callback):
    """Seeds torch's random numbers for each epoch anew, from the run's seed, the epoch and the process.

    So dropout draws the same in a run that was interrupted, and another mask in each process. The order of the slices
    and their augmentation have numbers of their own; nothing else draws.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed before an epoch's first batch; making a loader's iterator has drawn by then."""
        if batch_idx == 0:
            words = [self._seed, trainer.current_epoch, trainer.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))


def resumable(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, None where there is none.

    A damaged one is named on the terminal and set aside as ``<name>.damaged``. Raises RunError where the disk does not
    let one be read.
    """
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        damage = _damage(path)
        if damage is None:
            return path
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        print(
            f"{path} is damaged ({damage}) and set aside: the run goes on from the one before it, if any.", flush=True
        )
    return None


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint: torch reads over flipped bytes, the checksums in its zip do not."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:  # ValueError: offsets below 0
        return type(error).__name__
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset that no file has
            return "a wrong offset"
        raise RunError(
            f"{path} cannot be read ({error.strerror}), which need not mean that it is damaged. Check the disk and the "
            "permissions, then run again."
        ) from error
    return f"wrong checksum of {bad}" if bad else None
