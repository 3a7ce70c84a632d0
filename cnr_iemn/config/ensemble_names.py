"""Which models and tags an ensemble joins, and the name of its folder."""

from cnr_iemn.config.schema.fields import check_folder_name
from cnr_iemn.constants import PAPER_BACKBONES
from cnr_iemn.errors import ConfigurationError


def ensemble_models(ensemble: object) -> tuple[str, ...]:
    """Return the models that ``ensemble`` names: ``all`` (the paper's four, in its order), one name, or a list."""
    names = PAPER_BACKBONES if ensemble == "all" else (ensemble,) if isinstance(ensemble, str) else ensemble
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"ensemble={ensemble!r} names no model. Give all, one model's name, or a list such as "
            "'ensemble=[resnext50,densenet161]'."
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"ensemble={ensemble!r} names a model twice. Name each once.")
    for name in names:
        check_folder_name("ensemble", name)  # whether it has been trained is looked at where the runs are
    return tuple(names)


def ensemble_name(ensemble: object, tag: object = "") -> str:
    """Return the folder name of an ensemble: ``all``, a model's name, or names joined by ``+``.

    Of several tags, ``@`` and the tags follow, joined by ``+``.
    """
    models = "all" if ensemble == "all" else "+".join(ensemble_models(ensemble))
    return models if isinstance(tag, str) or len(run_tags(tag)) == 1 else f"{models}@{'+'.join(run_tags(tag))}"


def run_tags(tag: object) -> tuple[str, ...]:
    """Return the tags that ``tag`` names: one, or a list of those whose runs are averaged."""
    tags = (tag,) if isinstance(tag, str) else tag
    if not isinstance(tags, list | tuple) or not tags or not all(isinstance(name, str) for name in tags):
        raise ConfigurationError(f"tag={tag!r} names no run. Give one tag, or a list such as 'tag=[seed0,seed1]'.")
    if len(set(tags)) < len(tags):
        raise ConfigurationError(f"tag={tag!r} names a run twice. Name each once.")
    for name in tags:
        check_folder_name("tag", name)
    return tuple(tags)
