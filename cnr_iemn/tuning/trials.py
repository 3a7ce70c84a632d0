"""The trials of a search: Optuna's journal, and which of them are to be run."""

import os
import warnings
from pathlib import Path

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from cnr_iemn.config.schema.settings import SearchSettings
from cnr_iemn.config.search_space import Range
from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import exclusive

ERROR = "error"
"""User attribute of a trial that cannot be trained: why. One that failed without it was interrupted."""
_INDEX = "index"
"""User attribute: number of the trial among those that count, which it keeps when it is interrupted and resumed."""


def load_trials(folder: Path, search: SearchSettings) -> optuna.Study:
    """Return the Optuna study in a search's folder, which must exist; processes share it through its journal."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", message="The reported value is ignored")  # a resumed trial repeats an epoch
    journal = folder / "journal.log"
    lock = JournalFileOpenLock(str(journal))
    backend = JournalFileBackend(str(journal), lock_obj=lock)
    lock.acquire()
    try:
        _drop_partial_line(journal)
    finally:
        lock.release()
    return optuna.create_study(
        storage=JournalStorage(backend),
        study_name="search",
        direction="maximize",
        pruner=_pruner(search),
        load_if_exists=True,
    )


def next_sampler(study: optuna.Study, search: SearchSettings) -> TPESampler:
    """Return the sampler of the next trial.

    Each trial has a seed of its own, so that processes at once draw differently, and an interrupted search draws what
    it would have drawn.
    """
    return TPESampler(seed=search.seed * 100_003 + _next_index(study), n_startup_trials=search.startup_trials)


def suggest(trial: Trial, space: dict[str, Range]) -> None:
    """Draw a trial's settings; a resumed one keeps those it has."""
    for key, values in space.items():
        if values.choices is not None:
            trial.suggest_categorical(key, values.choices)
        elif values.integer:
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)


def claim_index(study: optuna.Study, trial: Trial) -> int:
    """Return the index of a trial that has just begun, with the values of its interrupted attempt reported again."""
    index = trial.user_attrs.get(_INDEX)
    if index is None:
        index = _next_index(study)
        trial.set_user_attr(_INDEX, index)
        return index
    attempts = [attempt for attempt in study.trials if attempt.user_attrs.get(_INDEX) == index]
    reported = {step: value for attempt in attempts for step, value in attempt.intermediate_values.items()}
    for step, value in reported.items():
        trial.report(value, step)
    return int(index)


def _next_index(study: optuna.Study) -> int:
    """Return the smallest index that no trial has."""
    used = {trial.user_attrs.get(_INDEX) for trial in current_trials(study)}
    return next(index for index in range(len(used) + 1) if index not in used)


def current_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count, in the order of their index: all but interrupted attempts."""
    trials = [trial for trial in study.trials if trial.state != TrialState.FAIL or ERROR in trial.user_attrs]
    return sorted(trials, key=lambda trial: trial.user_attrs.get(_INDEX, trial.number))


def requeue_interrupted(study: optuna.Study, folder: Path, space: dict[str, Range]) -> None:
    """Put trials back into Optuna's queue whose process has ended before they did."""
    for trial in study.trials:
        if trial.state == TrialState.RUNNING and not _is_locked(trial_lock(folder, trial.number)):
            study.tell(trial.number, state=TrialState.FAIL)
    indices = {trial.user_attrs.get(_INDEX) for trial in current_trials(study)}
    for trial in study.trials:
        index = trial.user_attrs.get(_INDEX)
        interrupted = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
        if interrupted and index not in indices and set(trial.params) == set(space):
            study.enqueue_trial(trial.params, user_attrs={_INDEX: index})
            indices.add(index)


def trial_lock(folder: Path, number: int) -> Path:
    """Return the file whose lock says that a trial's process lives. ``number``: Optuna's."""
    return folder / "trials" / f".{number}.lock"


def _is_locked(path: Path) -> bool:
    def raise_locked() -> None:
        raise RunError(str(path))

    try:
        with exclusive(path, raise_locked):
            return False
    except RunError:
        return True


def _pruner(search: SearchSettings) -> BasePruner:
    if not search.prune:
        return NopPruner()
    return MedianPruner(n_startup_trials=search.prune_after_trials, n_warmup_steps=search.prune_after_epochs)


def _drop_partial_line(journal: Path) -> None:
    """Cut off what a killed process, or a full disk, has left of a line: it would make the next one unreadable."""
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)
