"""Models of timm without their classifiers, and the normalisation of their input."""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnr_iemn.errors import ConfigurationError, WeightsError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
NO_STATISTICS: Statistics = ((0.0,) * 3, (1.0,) * 3)
"""Mean and deviation that change nothing, for networks without published weights."""


@dataclass(frozen=True)
class TimmModel:
    """A model without its classifier.

    Attributes:
        trunk: Maps float images [b, 3, h, w] to deep features [b, features].
        features: Number of deep features.
        fixed_size: The only side that it takes, pixels; None where any side is possible.
        statistics: Mean and deviation of the images that its published weights were trained on, by channel, of 0..1.
        classifier: Names of the classifier's modules in files of the whole model.
    """

    trunk: nn.Module
    features: int
    fixed_size: int | None
    statistics: Statistics
    classifier: tuple[str, ...]


class NormalisedTrunk(nn.Module):
    """A model whose images of 0..1 are first brought to mean 0 and deviation 1, as its weights are used to.

    Mean and deviation are kept with the weights, so that a checkpoint needs nothing else.

    Args:
        model: Of the images [b, 3, h, w].
        mean: By channel.
        deviation: By channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the deep features, float [b, features]. ``images``: float 0..1, [b, 3, h, w]."""
        features: Tensor = self.model((images - self.mean) / self.deviation)
        return features


def create_timm_model(name: str, *, pretrained: bool, drop_path: float = 0.0) -> TimmModel:
    """Build timm's model ``name`` without its classifier.

    Args:
        name: Of ``timm.list_models()``, with a tag of its weights or without.
        pretrained: With the weights that timm has for the name.
        drop_path: Rate of stochastic depth (Huang et al. 2016); 0 for none.

    Raises:
        ConfigurationError: timm is not installed, has no such name, or the model has no such rate.
        WeightsError: Weights cannot be loaded.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"model.library=timm (model.name={name}) needs the package timm, which is not installed. Install it with "
            "pip install '.[timm]', or take a backbone of the paper."
        ) from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Near it: {', '.join(near)}. " if near else ""
        raise ConfigurationError(
            f"model.name={name} is no model of timm {timm.__version__}. {hint}timm.list_models() lists them."
        )
    rate: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path > 0 else {}
    try:
        trunk: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **rate)
    except TypeError as error:
        if not rate:
            raise
        raise ConfigurationError(
            f"model.drop_path={drop_path} does not apply to {name}, which has no blocks to skip. Give "
            "model.drop_path=0."
        ) from error
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"timm cannot make {name} with its published weights: {reason}. Either train from random weights with "
            "model.weights=none, or give model.weights=/path/to/file of a model of this name."
        ) from error
    config = trunk.pretrained_cfg
    classifier = config.get("classifier") or ()
    return TimmModel(
        trunk,
        getattr(trunk, "head_hidden_size", trunk.num_features),
        fixed_size=config["input_size"][-1] if config.get("fixed_input_size") else None,
        statistics=(tuple(config["mean"]), tuple(config["std"])),
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
    )
