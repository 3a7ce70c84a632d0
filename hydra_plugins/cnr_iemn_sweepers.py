"""Sweepers of the entry points. Hydra takes plugins from the package hydra_plugins alone; it finds them by itself."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cnr_iemn.errors import JobError, PartialFailureError


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


def failure(job: JobReturn) -> Exception:
    """Return what a failed job raised."""
    error: Exception = job._return_value
    return error


def job_words(job: JobReturn) -> str:
    """Return the words that tell a job from the others, as they are given on the command line."""
    return shlex.join(filter_overrides(job.overrides or []))
