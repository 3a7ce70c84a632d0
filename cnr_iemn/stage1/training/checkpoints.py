"""Checkpoints: the state from which an interrupted run is resumed, and the weights of the best epoch."""

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import TypeAdapter, ValidationError
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.tensor_files import (
    UnusableFileError,
    read_tensors,
    require_fit,
    require_tensors,
)
from cnr_iemn.utils.atomic_io import sha256_of_file, write_bytes_atomic
from cnr_iemn.utils.json_io import first_fault

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
WEIGHTS = "state_dict"
BEST, PREVIOUS_BEST = "best.ckpt", "previous_best.ckpt"


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch and keeps the one before it as ``previous.ckpt``.

    A kill at any moment leaves one of the two whole. ``run_id``: of run.json, by which a checkpoint names its run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        super().__init__()
        self.folder = folder
        self.run_id = run_id

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id."""
        return {"run_id": self.run_id}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, after all that measures the epoch."""
        new, last = self.folder / ".next.ckpt", self.folder / LAST
        trainer.save_checkpoint(new, weights_only=False)  # explicit, or Lightning logs a line
        if not trainer.is_global_zero:
            return
        if last.exists():
            os.replace(last, self.folder / PREVIOUS)
        os.replace(new, last)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is whole; Lightning writes it to TMPDIR first.

    Of the best epoch it keeps the weights alone, and the file before as ``previous_best.ckpt``: a run that is killed
    before ``last.ckpt`` knows of the new best goes on with that one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write one checkpoint."""
        path, content = Path(path), io.BytesIO()
        best = path.name == BEST
        torch.save({"state_dict": checkpoint["state_dict"]} if best else checkpoint, content)
        if best and path.exists():
            os.replace(path, path.with_name(PREVIOUS_BEST))
        write_bytes_atomic(path, content.getbuffer())


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch's weights, and knows them again by their SHA-256, wherever the run's folder is now."""

    def __init__(self, folder: Path, monitor: str) -> None:
        # not save_weights_only, which would save weights that are not averaged: AtomicCheckpointIO leaves out the rest
        super().__init__(folder, filename="best", monitor=monitor, mode="max", enable_version_counter=False)
        self._sha256: str | None = None
        self._version = 0  # time of change of the file with this hash

    @property
    def path(self) -> Path:
        """The only file that it writes."""
        return Path(str(self.dirpath)) / BEST

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps, and the file's hash."""
        if self.path.is_file() and self._version != (version := self.path.stat().st_mtime_ns):
            self._sha256, self._version = sha256_of_file(self.path), version
        return {**super().state_dict(), "sha256": self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint says of the best epoch; Lightning forgets it where the folder has another path."""
        self._sha256 = state_dict["sha256"]
        best = str(self.path)
        here = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
        super().load_state_dict({**state_dict, **here, "best_k_models": {best: state_dict["best_model_score"]}})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the best epoch before an interruption is still there. Raises RunError."""
        super().on_train_start(trainer, pl_module)
        if trainer.current_epoch == 0:
            return
        if trainer.is_global_zero:
            self.restore()
        trainer.strategy.barrier()

    def restore(self) -> None:
        """Require the file that the run wrote; take the one before where a process was killed after a newer one.

        Raises:
            RunError: Neither is the run's.
        """
        before = self.path.with_name(PREVIOUS_BEST)
        for path in (self.path, before):
            if path.is_file() and sha256_of_file(path) == self._sha256:
                if path == before:
                    os.replace(path, self.path)
                return
        state = "not the file that the run has written" if self.path.is_file() else "missing"
        raise RunError(
            f"{self.path} is {state}: it must hold the best of the epochs before the interruption. Copy it back, or "
            "train the run again from the start with overwrite=true."
        )


class _Rows(TypedDict):
    rows: list[dict[str, float]]


class _Run(TypedDict):
    run_id: str


class _Callbacks(TypedDict):
    MetricsCsv: _Rows
    LastCheckpoint: _Run


class _TrainingState(TypedDict):
    """Entries of a checkpoint from which Lightning resumes."""

    epoch: int
    global_step: int
    state_dict: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]
    loops: dict[str, Any]
    callbacks: _Callbacks


def resumable(folder: Path, network: Mapping[str, Tensor], run_id: str) -> Path | None:
    """Return the newest usable checkpoint of a run, None where there is none.

    One that is damaged, of another network or no checkpoint is named on the terminal and set aside as
    ``<name>.damaged``. Nothing of it is run.

    Args:
        folder: Of the run's checkpoints.
        network: The state of the network that goes on.
        run_id: Of run.json.

    Returns:
        The checkpoint's path.

    Raises:
        RunError: The disk does not let one be read, a folder or file stands in its place, or it is another run's.
    """
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_dir():
            raise RunError(f"{path} is a folder where a checkpoint should be. Remove it, or give overwrite=true.")
        if not path.is_file():
            continue
        try:
            content = read_tensors(path, refusal=RunError)
            if path.name == LAST and _weights_only(content):
                continue  # killed after the training: previous.ckpt is the state at its end
            state = TypeAdapter(_TrainingState).validate_python(content, extra="allow")
            require_fit(network_state(content), network)
            if state["callbacks"]["LastCheckpoint"]["run_id"] != run_id:
                raise RunError(
                    f"{path} is a checkpoint of another run: its run_id is not that of run.json. Put this run's "
                    "checkpoints back, or train it again from the start with overwrite=true."
                )
            return path
        except (UnusableFileError, ValidationError) as error:
            fault = str(error) if isinstance(error, UnusableFileError) else first_fault(error)
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        log.warning("%s is damaged (%s) and set aside: the run goes on from the one before it, if any.", path, fault)
    return None


def strip_checkpoint(path: Path) -> None:
    """Leave only the weights in ``last.ckpt``; the training state at the end becomes ``previous.ckpt``.

    Safe to repeat: a run that is killed later resumes from ``previous.ckpt``.
    """
    state = path.with_name(PREVIOUS)
    content: Any = torch.load(path if path.exists() else state, map_location="cpu", weights_only=True)
    if _weights_only(content):
        return
    if path.exists():
        os.replace(path, state)
    buffer = io.BytesIO()
    torch.save({WEIGHTS: content[WEIGHTS]}, buffer)
    write_bytes_atomic(path, buffer.getbuffer())


def _weights_only(content: object) -> bool:
    return isinstance(content, dict) and set(content) == {WEIGHTS}


def drop_training_state(folder: Path, checkpoint: str) -> None:
    """Delete what only an interrupted run needs, but for the selected ``checkpoint``: best or last."""
    for name in {LAST, PREVIOUS, PREVIOUS_BEST} - {f"{checkpoint}.ckpt"}:
        (folder / name).unlink(missing_ok=True)


def network_state(content: object) -> dict[str, Tensor]:
    """Return the network's tensors in a checkpoint, by their names in it. Raises UnusableFileError."""
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping):
        raise UnusableFileError("it has no state_dict")
    prefix = "network."
    return require_tensors({str(k).removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)})


def load_weights(network: SliceNetwork, path: Path) -> None:
    """Load the network's weights from a checkpoint of a run. Nothing but tensors and plain values is unpickled.

    Raises RunError where it holds anything else: a pickle can run code of its own.
    """
    try:
        content = read_tensors(path, refusal=RunError)
    except UnusableFileError as error:
        raise RunError(
            f"{path} is not a checkpoint of a run, or holds more than tensors and plain values, which could run code "
            f"of its own: nothing of it was run ({error}). Take the checkpoint that train.py wrote, or train again."
        ) from error
    try:
        state = network.without_lobe_head(network_state(content))
        require_fit(state, network.state_dict())
    except UnusableFileError as error:
        raise RunError(
            f"{path} holds no weights of {network.backbone} that can be used: {error}. Take the checkpoint that "
            "train.py has written, or train again (overwrite=true)."
        ) from error
    network.load_state_dict(state)
