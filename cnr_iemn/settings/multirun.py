"""Which sweep a job belongs to, and the words that ask for it."""

import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode


def multirun_name() -> str | None:
    """Return the name of the multirun's folder (the time it was begun, as it is set), None for a single run."""
    if not HydraConfig.initialized():
        return None
    config = HydraConfig.get()
    return Path(config.sweep.dir).name if config.mode == RunMode.MULTIRUN else None


def command_line() -> str | None:
    """Return the command that makes this very job, also of a multirun; None outside an entry point."""
    if not HydraConfig.initialized():
        return None
    config = HydraConfig.get()
    return shlex.join(["python", f"{config.job.config_name}.py", *config.overrides.task])
