"""A search of settings: trials until there are as many as wanted, each a network for every inner fold."""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
from optuna.trial import Trial, TrialState
from pytorch_lightning.callbacks import Callback

from cnr_iemn.config.composition import with_values
from cnr_iemn.config.schema.settings import TrainSettings, TuneSettings
from cnr_iemn.config.search_space import Range, search_space
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.errors import CohortError, JobError, PartialFailureError, RunError, TrainingError
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.roles import Roles, require_every_class, save_split
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import describe_config_diff, reproducible_config
from cnr_iemn.stage1.training.train_run import TrainRun
from cnr_iemn.stage1.training.trainer import TUNING_METRIC
from cnr_iemn.tuning.report import SELECTED_ON, report
from cnr_iemn.tuning.trials import (
    ERROR,
    claim_index,
    current_trials,
    load_trials,
    next_sampler,
    requeue_interrupted,
    suggest,
    trial_lock,
)
from cnr_iemn.utils.atomic_io import exclusive
from cnr_iemn.utils.console import line_label

log = logging.getLogger(__name__)
_FIXED_SETTINGS = ("seed", "score", "folds", "startup_trials", "prune", "prune_after_trials", "prune_after_epochs")
"""Settings of a search with which its trials can be compared."""


@dataclass(frozen=True)
class Search:
    """A search, shared by the processes that are started with its command.

    Attributes:
        settings: The command's, of which ``search.space`` lists the keys that each trial sets.
        cohort: All scans.
        roles: Which scans train and which are held out, by ``data.split``.
        hardware: Where each trial trains.
        folder: runs/<study>/tuning/<search.name>.
    """

    settings: TuneSettings
    cohort: Cohort
    roles: Roles
    hardware: Hardware

    @property
    def folder(self) -> Path:
        """The search's folder."""
        return Path(self.settings.runs) / self.settings.study / "tuning" / self.settings.search.name

    def run(self, words: Sequence[str]) -> float:
        """Run the trials that are missing, print all and write trials.csv. Finished ones stay, interrupted ones resume.

        Args:
            words: Of the command line, for the command of the best trial.

        Returns:
            The best value, NaN without any.

        Raises:
            PartialFailureError: Trials failed here, others did not.
            JobError: No trial could be trained.
            RunError: The folder is that of a search with other settings.
        """
        search = self.settings.search
        space = search_space(search.space)
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        study = load_trials(self.folder, search)
        plan = _plan(self.settings, space)
        failures: dict[int, str] = {}
        complete = True
        while True:
            with ExitStack() as queue:  # one process at a time asks for a trial
                queue.enter_context(exclusive(self.folder / ".queue.lock", lambda: None))
                self._require_same(study, plan)
                requeue_interrupted(study, self.folder, space)
                trials = current_trials(study)
                if sum(trial.state != TrialState.WAITING for trial in trials) >= search.trials:
                    break
                complete = False
                study.sampler = next_sampler(study, search)
                study.optimize(lambda trial: self._objective(trial, study, space, queue, failures), n_trials=1)
        if complete:
            log.info("The search has its %d trials: nothing to do. A larger search.trials= adds some.", search.trials)
        best = report(current_trials(study), self.folder, search, words)
        if failures:
            reasons = "\n".join(f"  trial {index}: {reason}" for index, reason in sorted(failures.items()))
            kind = PartialFailureError if best is not None else JobError
            raise kind(f"{len(failures)} trials failed:\n{reasons}")
        return float("nan") if best is None else best

    def _objective(
        self, trial: Trial, study: optuna.Study, space: dict[str, Range], queue: ExitStack, failures: dict[int, str]
    ) -> float:
        """Return a trial's value, NaN (a failure to Optuna) where it cannot be trained.

        Other processes may ask for trials once this one has its lock.
        """
        with exclusive(trial_lock(self.folder, trial.number), lambda: None):
            index = claim_index(study, trial)
            suggest(trial, space)
            queue.close()
            value = math.nan
            try:
                value = self._measure(trial, index)
                log.info("trial %d: %.4f (%s)", index, value, SELECTED_ON[self.settings.search.score])
            except optuna.TrialPruned:
                log.info("trial %d is pruned: below the median of the others", index)
                self._drop_checkpoints(index)
                raise
            except TrainingError as error:
                trial.set_user_attr(ERROR, str(error))
                failures[index] = str(error)
            self._drop_checkpoints(index)
            return value

    def _measure(self, trial: Trial, index: int) -> float:
        """Return the mean over the trial's runs of the balanced slice accuracy after the last epoch."""
        settings = with_values(self.settings, trial.params)
        search = settings.search
        inside = search.score == "inner_folds"
        folds: list[int] = list(range(settings.data.folds)) if search.folds is None else search.folds
        scores: list[float] = []
        for held_out in folds if inside else [None]:
            run_settings = _run_settings(settings, index, held_out)
            tag = run_settings.run_tag
            run = RunFolder(self._trial_folder(index) / tag, settings.study, settings.model.name, tag)
            roles = replace(self.roles, held_out=held_out, measured_inside=inside)
            self._require_measured(roles)
            score = run.finished_score(reproducible_config(run_settings), overwrite=False)
            if score is None:
                training = TrainRun(run_settings, cohort=self.cohort, roles=roles, hardware=self.hardware, folder=run)
                save_split(Path(settings.runs) / settings.study, self.cohort, roles.split)
                with run.lock(), line_label(f"{tag}:"):
                    try:
                        score = training.measure(EpochReport(trial, previous=tuple(scores)))
                    except optuna.TrialPruned:
                        run.update(status="pruned")
                        raise
            scores.append(score)
        return sum(scores) / len(scores)

    def _require_measured(self, roles: Roles) -> None:
        require_every_class(self.cohort, roles)
        if not any(roles.validates(scan) for scan in self.cohort.scans):
            where = f"fold {roles.held_out}" if roles.measured_inside else "the validation split"
            raise CohortError(
                f"No slice-labelled scan in {where}, so that search.score={self.settings.search.score} has nothing to "
                "measure on. Lower data.folds, give other search.folds, or label more scans."
            )

    def _require_same(self, study: optuna.Study, plan: dict[str, Any]) -> None:
        previous = study.user_attrs.get("plan")
        if previous is None:
            study.set_user_attr("plan", plan)
        elif previous != plan:
            raise RunError(
                f"The search {self.folder} was begun with other settings: {describe_config_diff(previous, plan)}. Its "
                "trials could not be compared. Give another search.name= to begin a new one."
            )

    def _trial_folder(self, index: int) -> Path:
        return self.folder / "trials" / str(index)

    def _drop_checkpoints(self, index: int) -> None:
        """Remove the gigabytes that nothing reads any more; configurations and metrics stay."""
        for checkpoints in self._trial_folder(index).glob("*/checkpoints"):
            shutil.rmtree(checkpoints)


class EpochReport(Callback):
    """Reports a trial's value after each epoch: the mean of its ``previous`` runs and the current one.

    Raises optuna.TrialPruned where the pruner stops the trial. Epochs are counted over all runs of the trial.
    """

    def __init__(self, trial: Trial, *, previous: tuple[float, ...]) -> None:
        self.trial = trial
        self.previous = previous

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch and ask the pruner. Optuna keeps the first report of an epoch that is repeated."""
        step = len(self.previous) * int(trainer.max_epochs or 0) + trainer.current_epoch
        values = (*self.previous, float(trainer.callback_metrics[TUNING_METRIC]))
        self.trial.report(sum(values) / len(values), step)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _run_settings(settings: TuneSettings, index: int, held_out: int | None) -> TrainSettings:
    """Return the settings of one run of a trial. Its last epoch counts: the scans that measure choose no epoch."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(TrainSettings)}
    values["tag"] = f"trial{index}" if held_out is None else f"trial{index}-fold{held_out}"
    values["data"] = replace(settings.data, fold=held_out)
    values["trainer"] = replace(settings.trainer, checkpoint="last", early_stopping=None)
    return TrainSettings(**values)


def _plan(settings: TuneSettings, space: dict[str, Range]) -> dict[str, Any]:
    """Return all that a trial's value depends on except its own settings, as plain values."""
    configuration = reproducible_config(settings)
    for key in space:
        *groups, name = key.split(".")
        section = configuration
        for group in groups:
            section = section[group]
        del section[name]
    search = {key: value for key, value in configuration.pop("search").items() if key in _FIXED_SETTINGS}
    ranges = {key: asdict(values) for key, values in space.items()}
    plan: dict[str, Any] = json.loads(json.dumps({"search": {**search, "space": ranges}, **configuration}))
    return plan
