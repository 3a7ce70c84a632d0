"""Settings as text."""

from typing import Any

from omegaconf import OmegaConf


def to_yaml(settings: Any) -> str:
    """Return an instance of a settings dataclass as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))
