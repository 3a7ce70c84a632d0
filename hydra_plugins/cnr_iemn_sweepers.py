"""Sweepers of the entry points. Hydra takes plugins from the package hydra_plugins alone; it finds them by itself."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from cnr_iemn.errors import ConfigurationError, JobError, PartialFailureError
from cnr_iemn.settings.ranges import search_space, setting_words
from cnr_iemn.settings.render import checked_settings
from cnr_iemn.settings.schema import TrainSettings


@dataclass
class CnrIemnSweeperConf(BasicSweeperConf):
    """Hydra's basic sweeper, with which failed jobs stop no others."""

    _target_: str = "hydra_plugins.cnr_iemn_sweepers.CnrIemnSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="cnr_iemn", node=CnrIemnSweeperConf, provider="cnr_iemn")


class RecordingLauncher(Launcher):
    """Keeps what became of the jobs of another launcher. ``returns``: of all jobs so far, in their order."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.returns: list[JobReturn] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: the other launcher has been set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return none: Hydra's sweeper would raise the first failure and leave out what follows.

        Raises JobError where the launcher itself gives up.
        """
        try:
            self.returns += self.launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise JobError(
                f"The launcher lost its jobs ({type(error).__name__}: {reason}). A process was killed, it may be for "
                "want of memory, or could not be started. What is finished is kept: the same command goes on."
            ) from error
        return []


class CnrIemnSweeper(BasicSweeper):
    """All combinations of the values given, as in Hydra; all jobs run, then the failed ones are named."""

    launcher: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Put the chosen launcher into one that records."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher = RecordingLauncher(self.launcher)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run all jobs and return what became of them.

        Raises PartialFailureError where some failed, or some scans of all; JobError where no job finished.
        """
        super().sweep(arguments)
        returns: list[JobReturn] = self.launcher.returns
        failed = [job for job in returns if job.status == JobStatus.FAILED]
        if failed:
            reasons = "\n".join(f"  {job_words(job)}: {failure(job)}" for job in failed)
            partly = len(failed) < len(returns) or any(isinstance(failure(j), PartialFailureError) for j in failed)
            kind = PartialFailureError if partly else JobError
            raise kind(f"{len(failed)} of {len(returns)} jobs failed:\n{reasons}")
        return returns


class OptunaSweeper(CnrIemnSweeper):
    """Trials of Optuna, each a job of the chosen launcher; the settings are in conf/sweep/optuna.yaml."""

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the sweep and return its jobs. Raises as ``engine.sweeps.run_sweep``."""
        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        for override in OverridesParser.create(loader).parse_overrides(arguments):
            if override.is_sweep_override():
                raise ConfigurationError(
                    f"{override.input_line} names several values, and a sweep searches for one configuration. Run it "
                    "once for each value, with a sweep.name= of its own, or search it by sweep.space."
                )
        settings = self._settings(arguments)
        if settings.sweep is None:
            raise ConfigurationError("The sweeper needs the settings of its sweep. Choose it with sweep=optuna.")
        for key, values in search_space(settings.sweep.space).items():
            for value in values.ends:  # a value that cannot work costs no hours
                self._settings([*arguments, *setting_words({key: value})])
        try:
            from cnr_iemn.engine.sweeps import run_sweep
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise ConfigurationError(
                "sweep=optuna needs the package optuna, which is not installed. Install it with "
                "pip install 'cnr-iemn[sweep]'."
            ) from error

        def launch(jobs: list[list[str]]) -> list[Exception | None]:
            before = len(self.launcher.returns)
            self.launcher.launch([[*arguments, *words] for words in jobs], initial_job_idx=before)
            done = self.launcher.returns[before:]
            return [failure(job) if job.status == JobStatus.FAILED else None for job in done]

        run_sweep(settings, settings.sweep, arguments, launch)
        returns: list[JobReturn] = self.launcher.returns
        return returns

    def _settings(self, words: list[str]) -> TrainSettings:
        """Return the checked settings of one job."""
        assert self.config is not None
        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        with open_dict(config):
            del config["hydra"]
        return checked_settings(config, TrainSettings)


def failure(job: JobReturn) -> Exception:
    """Return what a failed job raised."""
    error: Exception = job._return_value
    return error


def job_words(job: JobReturn) -> str:
    """Return the words that tell a job from the others, as they are given on the command line."""
    return shlex.join(filter_overrides(job.overrides or []))
