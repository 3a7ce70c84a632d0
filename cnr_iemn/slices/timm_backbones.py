"""Any backbone of timm (PyTorch image models) by its name, with the same heads as the paper's four. Optional."""

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnr_iemn.errors import ConfigurationError, WeightsError


def build_timm(name: str, *, pretrained: bool) -> tuple[nn.Module, int, int | None, tuple[str, ...]]:
    """Build timm's model ``name`` without its classifier. ``pretrained``: with the weights that timm has for the name.

    Returns the trunk, which maps float images [b, 3, h, w] to deep features [b, features]; their number; the one side
    in pixels that it takes, None where any does; and the names of its classifier's modules.

    Raises ConfigurationError where timm is not installed or has no such name, WeightsError where weights cannot be had.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"model.library=timm (model.name={name}) needs the package timm, which is not installed. Install it with "
            "pip install 'cnr-iemn[timm]', or take a backbone of the paper."
        ) from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Near it: {', '.join(near)}. " if near else ""
        raise ConfigurationError(
            f"model.name={name} is no model of timm {timm.__version__}. {hint}timm.list_models() lists them."
        )
    try:
        trunk: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"timm cannot make {name} with its published weights: {reason}. Either train from random weights with "
            "model.weights=none, or give model.weights=/path/to/file of a model of this name."
        ) from error
    config = trunk.pretrained_cfg
    classifier = config.get("classifier") or ()
    return (
        trunk,
        getattr(trunk, "head_hidden_size", trunk.num_features),
        config["input_size"][-1] if config.get("fixed_input_size") else None,
        (classifier,) if isinstance(classifier, str) else tuple(classifier),
    )


def safetensors_of(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file as timm publishes them. Raises OSError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
