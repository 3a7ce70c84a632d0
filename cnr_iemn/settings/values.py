"""Checks of single values, whatever entry point they belong to; all raise ConfigurationError."""

from collections.abc import Iterable

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.settings.schema import LoggerSettings


def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Check that a value is one of these."""
    if value not in allowed:
        raise ConfigurationError(f"{key}={value} is not known. Choose one of: {', '.join(allowed)}.")


def one_gpu(gpus: int | None) -> None:
    """Check that at most one GPU is asked for. Raises ConfigurationError."""
    if gpus is not None and gpus not in (0, 1):
        raise ConfigurationError(f"gpus={gpus}: networks answer on one GPU. Give gpus=1, 0 for the CPU, or null.")


def at_least(key: str, value: int, minimum: int) -> None:
    """Check that a number is large enough."""
    if value < minimum:
        raise ConfigurationError(f"{key}={value} is too small. Give {minimum} or more.")


def folder_name(key: str, value: str) -> None:
    """Check that a value can name a folder."""
    if not value or value.startswith(".") or any(c in value for c in "/\\ :"):
        raise ConfigurationError(
            f"{key}={value!r} becomes a folder's name and cannot be used as one. "
            "Use letters, digits, '-', '_', '=' and '+'."
        )


def paths_of(key: str, value: object) -> tuple[str, ...]:
    """Return the paths of a setting that is null, one path or a list of them."""
    paths = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) and path for path in paths):
        raise ConfigurationError(f"{key}={value!r} names no file. Give a path, or a list: '{key}=[a,b]'.")
    return tuple(paths)


def check_logger(logger: LoggerSettings) -> None:
    """Check what a logger is asked for."""
    one_of("logger.name", logger.name, ("csv", "wandb", "tensorboard"))
    at_least("logger.worst_slices", logger.worst_slices, 0)
    if logger.log_checkpoint and logger.name != "wandb":
        raise ConfigurationError(
            f"logger.log_checkpoint=true keeps the checkpoint as a W&B artifact, which logger={logger.name} has not. "
            "Add logger=wandb, or leave it out: the run's folder holds its checkpoints anyway."
        )
