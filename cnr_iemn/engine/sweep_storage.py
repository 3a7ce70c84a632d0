"""The file of a sweep: its trials, their settings, their values after each epoch, and what became of them."""

import fcntl
import os
import zlib
from pathlib import Path
from typing import IO

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import Trial

from cnr_iemn.settings.ranges import Range
from cnr_iemn.settings.schema import SweepSettings, TrainSettings

SELECTED_ON = {
    "inner_folds": "selected on inner folds of the training scans",
    "validation": "selected on the validation scans",
}


def sweep_folder(settings: TrainSettings) -> Path:
    """Return the folder of a sweep: runs/<study>/sweeps/<name>."""
    name = settings.sweep.name if settings.sweep is not None else ""
    return Path(settings.runs) / settings.study / "sweeps" / name


def open_study(folder: Path, sweep: SweepSettings) -> optuna.Study:
    """Return the trials in a sweep's folder, which must exist; processes share them through its journal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = folder / "journal.log"
    backend = JournalFileBackend(str(journal), lock_obj=_WriteLock(journal))
    return optuna.create_study(
        storage=JournalStorage(backend),
        study_name="sweep",
        direction="maximize",
        pruner=_pruner(sweep),
        load_if_exists=True,
    )


def draw(study: optuna.Study, trial: Trial, space: dict[str, Range], sweep: SweepSettings) -> None:
    """Give a trial its settings; what it has it keeps.

    Each draw has a sampler of its own, so that an interrupted sweep draws what it would have drawn.
    """

    def sampler(purpose: str) -> TPESampler:
        seed = zlib.crc32(f"{sweep.seed} {trial.number} {purpose}".encode())
        return TPESampler(seed=seed, n_startup_trials=sweep.startup_trials)

    study.sampler = sampler("all")
    trial.relative_params  # noqa: B018  # drawn here, all together, once there are trials to learn from
    for key, values in space.items():
        study.sampler = sampler(key)
        if values.choices is not None:
            trial.suggest_categorical(key, values.choices)
        elif values.whole:
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)


def _pruner(sweep: SweepSettings) -> BasePruner:
    if not sweep.prune:
        return NopPruner()
    return MedianPruner(n_startup_trials=sweep.prune_after_trials, n_warmup_steps=sweep.prune_after_epochs)


class _WriteLock(JournalFileOpenLock):
    """One process at a time adds to the journal.

    Optuna's own locks outlive a process that is killed, for half a minute; this one ends with it. Half a line that it,
    or a full disk, has left would make the next one unreadable, so it is cut off.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = self._journal.with_suffix(".lock").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._journal.open("rb+") as journal:
            content = journal.read() if _cut(journal) else b""
            if content:
                journal.truncate(content.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next one in."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _cut(journal: IO[bytes]) -> bool:
    """Tell whether a file does not end with a line's end, and go to its beginning."""
    size = journal.seek(0, os.SEEK_END)
    if size:
        journal.seek(size - 1)
    last = journal.read(1)
    journal.seek(0)
    return last not in (b"", b"\n")
