"""What a configuration could have Python run, refused before Hydra sees it (SECURITY.md)."""

from collections.abc import Iterator
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from cnr_iemn.errors import ConfigurationError

_LOGGING_CLASSES = (
    "logging.Formatter",
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.handlers.TimedRotatingFileHandler",
    "colorlog.ColoredFormatter",
)
_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""What ``hydra/sweeper: basic`` names, the only sweeper whose jobs are known before they run."""
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def check_hydra_settings(config: DictConfig) -> None:
    """Check the section ``hydra`` of a composed configuration.

    Args:
        config: a composed configuration with its section ``hydra``.

    Raises:
        ConfigurationError: it would run code of the configuration's choice, or change into another folder.
    """
    section: Any = OmegaConf.to_container(config.hydra, resolve=False)
    if section.get("callbacks"):
        raise ConfigurationError(
            f"hydra.callbacks names {', '.join(map(str, section['callbacks']))}: a callback is code that Hydra runs, "
            "and a configuration runs none here. Leave it out."
        )
    launchers = {f"{kind.__module__}.{kind.__qualname__}" for kind in Plugins.instance().discover(Launcher)}
    for key, name, value in _texts(section, "hydra"):
        if name == "_target_" and not (key == "hydra.launcher" and value in launchers) and value != _SWEEPER:
            raise ConfigurationError(
                f"{key}._target_={value} would be called by Hydra. Only an installed launcher may stand in "
                "hydra/launcher, and nothing elsewhere: -m runs grids, tune.py searches. Leave it out."
            )
        if key.startswith(("hydra.job_logging", "hydra.hydra_logging")) and _is_code(name, value):
            raise ConfigurationError(
                f"{key}.{name}={value} would be called when logging starts. Use a handler or formatter of Python's own "
                "logging, such as logging.FileHandler."
            )
    _check_folders(config)


def _check_folders(config: DictConfig) -> None:
    if OmegaConf.select(config, "hydra.job.chdir"):
        raise ConfigurationError(
            "hydra.job.chdir=true would give each job a runs/ and a cache/ of its own, so that no run would be "
            "resumed or found again. Leave it out: every run has its own folder below runs= anyway."
        )


def _is_code(name: str, value: str) -> bool:
    if name in ("()", "class"):
        return value not in _LOGGING_CLASSES
    return value.startswith("ext://") and value not in _STREAMS


def _texts(value: object, key: str, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Give every text with the key of what holds it, and its own name there."""
    where = f"{key}.{name}" if name else key
    if isinstance(value, dict):
        for entry_name, entry in value.items():
            yield from _texts(entry, where, str(entry_name))
    elif isinstance(value, list):
        for position, entry in enumerate(value):
            yield from _texts(entry, where, str(position))
    elif isinstance(value, str):
        yield key, name, value
