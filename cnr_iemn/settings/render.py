"""Settings from composed configurations, and as text."""

from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from cnr_iemn.settings.checks import check_settings

S = TypeVar("S")


def to_yaml(settings: Any) -> str:
    """Return an instance of a settings dataclass as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def checked_settings(config: DictConfig, schema: type[S]) -> S:
    """Return the settings as an instance of ``schema``. Merging refuses keys that were added with ``+``."""
    plain = OmegaConf.to_container(config, resolve=True)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    check_settings(settings)
    return settings  # type: ignore[return-value]  # to_object returns an instance of the merged structure's class
