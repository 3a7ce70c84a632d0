"""A sweep: trials asked of Optuna and given to a launcher, until there are as many as asked for."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cnr_iemn.engine.run_record import lasting_configuration
from cnr_iemn.engine.runs import differences
from cnr_iemn.engine.sweep_report import report
from cnr_iemn.engine.sweep_storage import draw, open_study, sweep_folder
from cnr_iemn.errors import JobError, PartialFailureError, RunError
from cnr_iemn.files import exclusive
from cnr_iemn.settings.ranges import Range, search_space, setting_words
from cnr_iemn.settings.schema import SweepSettings, TrainSettings

Launch = Callable[[list[list[str]]], Sequence[Exception | None]]
"""Runs jobs, each given by the words that it adds to the command, and returns what each failed with."""


def run_sweep(settings: TrainSettings, sweep: SweepSettings, words: Sequence[str], launch: Launch) -> None:
    """Run the trials that are missing and print all of them; finished ones stay, interrupted ones go on.

    ``words``: of the command line, for the one that the sweep ends with. Raises PartialFailureError or JobError where
    trials failed in this call, RunError where the name is taken by another sweep.
    """
    folder, space = sweep_folder(settings), search_space(sweep.space)

    def refuse() -> None:
        raise RunError(f"Another process runs the sweep {folder}. Wait for it, or give another sweep.name=.")

    with exclusive(folder.with_name(f".{sweep.name}.lock"), refuse):
        folder.mkdir(exist_ok=True)
        study = open_study(folder, sweep)
        _require_the_same(study, folder, _plan(settings, sweep, space))
        failures = _run_trials(study, sweep, space, launch)
        report(study, folder, sweep, words)
    if failures:
        reasons = "\n".join(f"  trial {number}: {error}" for number, error in sorted(failures.items()))
        finished = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
        kind = PartialFailureError if finished else JobError
        raise kind(
            f"{len(failures)} trials failed:\n{reasons}\nThe same command runs again those that the table calls open."
        )


def _run_trials(
    study: optuna.Study, sweep: SweepSettings, space: dict[str, Range], launch: Launch
) -> dict[int, Exception]:
    """Return what trials failed with, by number."""
    failures: dict[int, Exception] = {}
    tried: set[int] = set()
    while batch := _next_batch(study, sweep, space, tried):
        tried.update(trial.number for trial in batch)
        jobs = [[*setting_words(trial.params), f"sweep.trial={trial.number}"] for trial in batch]
        for trial, error in zip(batch, launch(jobs), strict=True):
            if error is not None:
                failures[trial.number] = error
        if len(failures) == len(tried) and not any(trial.state.is_finished() for trial in study.trials):
            break  # not one could be trained, for a reason that is none of its settings: the next could not either
    if not tried:
        print(f"The sweep has its {sweep.trials} trials: nothing to do. A larger sweep.trials= adds some.")
    return failures


def _next_batch(
    study: optuna.Study, sweep: SweepSettings, space: dict[str, Range], tried: set[int]
) -> list[FrozenTrial]:
    """Return the trials to run next: those that were interrupted, then new ones."""
    open_ones = [t for t in study.trials if t.state == TrialState.RUNNING and t.number not in tried]
    trials = [optuna.trial.Trial(study, trial._trial_id) for trial in open_ones[: sweep.parallel]]
    for trial in trials:
        draw(study, trial, space, sweep)  # what a kill has left undrawn
    while len(trials) < sweep.parallel and len(study.trials) < sweep.trials:
        trials.append(study.ask())
        draw(study, trials[-1], space, sweep)
    return [study.trials[trial.number] for trial in trials]


def _plan(settings: TrainSettings, sweep: SweepSettings, space: dict[str, Range]) -> dict[str, Any]:
    """Return all that a trial's value depends on but its own settings, as plain values."""
    configuration = lasting_configuration(settings)
    for key in space:
        *groups, name = key.split(".")
        inner = configuration
        for group in groups:
            inner = inner[group]
        del inner[name]
    passing = ("name", "trials", "parallel", "trial", "space")
    chosen = {key: value for key, value in asdict(sweep).items() if key not in passing}
    ranges = {key: asdict(values) for key, values in space.items()}
    plan: dict[str, Any] = json.loads(json.dumps({"sweep": {**chosen, "space": ranges}, **configuration}))
    return plan


def _require_the_same(study: optuna.Study, folder: Path, plan: dict[str, Any]) -> None:
    before = study.user_attrs.get("plan")
    if before is None:
        study.set_user_attr("plan", plan)
    elif before != plan:
        raise RunError(
            f"The sweep {folder} was begun with other settings: {differences(before, plan)}. Its trials could not be "
            "compared. Give another sweep.name= to begin a new one."
        )
