"""Which models and tags an ensemble joins, and the name of its folder."""

from cnr_iemn.config.schema.fields import check_folder_name
from cnr_iemn.constants import PAPER_BACKBONES
from cnr_iemn.errors import ConfigurationError


def ensemble_models(ensemble: object) -> tuple[str, ...]:
    """Return the models that ``ensemble`` names: ``all`` (the paper's four, in its order), one name, or a list."""
    if ensemble == "all":
        return PAPER_BACKBONES
    remedy = "Give all, one model's name, or a list such as 'ensemble=[resnext50,densenet161]'."
    return _names("ensemble", ensemble, "model", remedy)  # whether they are trained is looked at where the runs are


def ensemble_name(ensemble: object, tag: object = "") -> str:
    """Return the folder name of an ensemble: ``all``, a model's name, or names joined by ``+``.

    Of several tags, ``@`` and the tags follow, joined by ``+``.
    """
    models = "all" if ensemble == "all" else "+".join(ensemble_models(ensemble))
    return models if isinstance(tag, str) or len(run_tags(tag)) == 1 else f"{models}@{'+'.join(run_tags(tag))}"


def run_tags(tag: object) -> tuple[str, ...]:
    """Return the tags that ``tag`` names: one, or a list of those whose runs are averaged."""
    return _names("tag", tag, "run", "Give one tag, or a list such as 'tag=[seed0,seed1]'.")


def _names(key: str, value: object, kind: str, remedy: str) -> tuple[str, ...]:
    """Return the folder names that a setting gives, one or a list. ``kind``: of what they are."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{key}={value!r} names no {kind}. {remedy}")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{key}={value!r} names a {kind} twice. Name each once.")
    for name in names:
        check_folder_name(key, name)
    return tuple(names)
