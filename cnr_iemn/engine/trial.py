"""One trial of a sweep: a network for each inner fold, and the mean of what they are worth."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytorch_lightning as pl
from optuna.trial import TrialState
from pytorch_lightning.callbacks import Callback

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.engine import assemble
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.run_record import lasting_configuration
from cnr_iemn.engine.runs import RunFolder, save_split
from cnr_iemn.engine.stage1 import Parts, build_network, train_trial
from cnr_iemn.engine.sweep_storage import SELECTED_ON, open_study, sweep_folder
from cnr_iemn.engine.training import SWEPT
from cnr_iemn.errors import CohortError, ConfigurationError, RunError, TrainingError
from cnr_iemn.files import exclusive
from cnr_iemn.settings.schema import SweepSettings, TrainSettings


def run_trial(settings: TrainSettings, *, cohort: Cohort, roles: assemble.Roles, hardware: Hardware) -> float:
    """Train and measure one trial, and note in the sweep's file what became of it. Returns its value, NaN if pruned.

    Goes on with a trial that was interrupted. Raises TrainingError where it cannot go on, which ends the trial, and
    CnrIemnError where something else is amiss, which leaves it to be run again.
    """
    sweep = settings.sweep
    folder = sweep_folder(settings)
    if sweep is None or sweep.trial is None or not folder.is_dir():
        raise RunError(f"{folder} holds no trial to run. Leave sweep.trial out: the sweep numbers its trials itself.")
    if hardware.processes > 1:
        raise ConfigurationError(
            f"A trial of a sweep trains in one process, and {hardware.processes} were asked for. Give trainer.gpus=1, "
            "and sweep.parallel with a launcher for several trials at once."
        )
    number = sweep.trial

    def wait() -> None:
        print(f"Another process, left over from before, is at trial {number} of {folder}: waiting for it.", flush=True)

    with exclusive(folder / "trials" / f".{number}.lock", wait):
        study = open_study(folder, sweep)
        state = study.trials[number].state
        if state.is_finished():
            return _value(study, number)
        try:
            value = _measure(settings, sweep, study, cohort=cohort, study_roles=roles, hardware=hardware)
        except optuna.TrialPruned:
            study.tell(number, state=TrialState.PRUNED)
            print(f"trial {number} is pruned: below the median of the others", flush=True)
        except TrainingError:
            study.tell(number, state=TrialState.FAIL)
            raise
        else:
            study.tell(number, value)
            print(f"trial {number}: {value:.4f} ({SELECTED_ON[sweep.score]})", flush=True)
        _drop_checkpoints(folder, number)
        return _value(study, number)


def _value(study: optuna.Study, number: int) -> float:
    trial = study.trials[number]
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan


def _measure(
    settings: TrainSettings,
    sweep: SweepSettings,
    study: optuna.Study,
    *,
    cohort: Cohort,
    study_roles: assemble.Roles,
    hardware: Hardware,
) -> float:
    """Return the mean over the trial's runs of the balanced slice accuracy after the last epoch."""
    number = int(sweep.trial or 0)
    inside = sweep.score == "inner_folds"
    folds: list[int] = list(range(settings.data.folds)) if sweep.folds is None else sweep.folds
    scores: list[float] = []
    for held_out in folds if inside else [None]:
        part = _part(settings, number, held_out)
        run = RunFolder(
            sweep_folder(settings) / "trials" / str(number) / part.run_tag,
            settings.study,
            settings.model.name,
            part.run_tag,
        )
        roles = replace(study_roles, held_out=held_out, measured_inside=inside)
        _require_measured(cohort, roles, sweep)
        score = run.finished_score(lasting_configuration(part), overwrite=False)
        if score is None:
            network = build_network(part, cohort.classes)
            store, failures = assemble.prepared_store(cohort, part.ingest, part.lungs)
            assemble.require_all_scans(failures)
            save_split(Path(settings.runs) / settings.study, cohort, roles.split)
            watch = EpochReport(study, number, before=tuple(scores))
            with run.alone():
                score = train_trial(part, run, Parts(network, cohort, store, roles, hardware), watch)
        scores.append(score)
    return sum(scores) / len(scores)


def _part(settings: TrainSettings, number: int, held_out: int | None) -> TrainSettings:
    """Return the settings of one run of a trial. Its last epoch counts: the scans that measure choose no epoch."""
    tag = f"trial{number}" if held_out is None else f"trial{number}-fold{held_out}"
    data, trainer = (
        replace(settings.data, fold=held_out),
        replace(settings.trainer, checkpoint="last", early_stopping=None),
    )
    return replace(settings, sweep=None, tag=tag, data=data, trainer=trainer)


def _require_measured(cohort: Cohort, roles: assemble.Roles, sweep: SweepSettings) -> None:
    assemble.require_every_class(cohort, roles)
    if not any(roles.validates(scan) for scan in cohort.scans):
        where = f"fold {roles.held_out}" if roles.measured_inside else "the validation split"
        raise CohortError(
            f"No slice-labelled scan in {where}, so that sweep.score={sweep.score} has nothing to measure on. Lower "
            "data.folds, name other sweep.folds, or label more scans."
        )


def _drop_checkpoints(folder: Path, number: int) -> None:
    """Remove the gigabytes that nothing reads any more; configurations and metrics stay."""
    for checkpoints in (folder / "trials" / str(number)).glob("*/checkpoints"):
        shutil.rmtree(checkpoints)


class EpochReport(Callback):
    """Tells the sweep the trial's value after each epoch: the mean of the runs ``before`` this one and of this one.

    Raises optuna.TrialPruned where the pruner has seen enough. Epochs are counted over all runs of the trial.
    """

    def __init__(self, study: optuna.Study, number: int, *, before: tuple[float, ...]) -> None:
        self.study = study
        self.number = number
        self.before = before

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report once, also where an interrupted run repeats an epoch, and ask the pruner."""
        trial = optuna.trial.Trial(self.study, self.study.trials[self.number]._trial_id)
        step = len(self.before) * int(trainer.max_epochs or 0) + trainer.current_epoch
        values = (*self.before, float(trainer.callback_metrics[SWEPT]))
        if step not in self.study.trials[self.number].intermediate_values:
            trial.report(sum(values) / len(values), step)
        if trial.should_prune():
            raise optuna.TrialPruned
