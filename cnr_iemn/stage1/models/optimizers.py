"""Adam as in the paper, and AdamW as it is used to fine-tune networks of timm."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.timm_models import NormalisedTrunk

Group = dict[str, Any]


def make_optimizer(
    network: SliceNetwork,
    *,
    name: str = "adam",
    learning_rate: float,
    weight_decay: float = 0.05,
    layer_decay: float | None = None,
    fused: bool = True,
) -> Optimizer:
    """Return the optimizer of a network.

    Args:
        network: Whose parameters are trained.
        name: ``adam`` (section 3.1.1), which decays nothing; ``adamw`` (Loshchilov and Hutter 2019).
        learning_rate: At its start; of the heads, where layers have rates of their own.
        weight_decay: Of ``adamw``; not of norms, biases and what timm's model says.
        layer_decay: Factor on the rate from each layer to the one before it (Clark et al. 2020), of a network of timm;
            None for one rate.
        fused: All parameters in one step, the fastest. Not with scaled gradients (fp16), which would be unscaled within
            that step, after they have been clipped.

    Raises:
        ConfigurationError: The network's layers are not known.
    """
    if name == "adam":
        return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=fused)
    groups = _decay_groups(network.named_parameters(), weight_decay, _without_decay(network))
    if layer_decay is not None:
        groups = _layer_groups(network, weight_decay, layer_decay)
    for group in groups:
        group["lr"] = learning_rate * group.pop("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def _decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float, without: frozenset[str] = frozenset()
) -> list[Group]:
    """Return two groups, of which one has no decay: norms, biases and other vectors, and the names ``without``."""
    pairs = list(parameters)
    excluded = [value for name, value in pairs if value.ndim <= 1 or name in without]
    decayed = [value for name, value in pairs if not (value.ndim <= 1 or name in without)]
    groups: list[Group] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": excluded, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _without_decay(network: SliceNetwork) -> frozenset[str]:
    """Return the names of parameters that timm's model wants without decay, such as position embeddings."""
    model = network.trunk.model if isinstance(network.trunk, NormalisedTrunk) else None
    names = getattr(model, "no_weight_decay", None)
    return frozenset(f"trunk.model.{name}" for name in names()) if callable(names) else frozenset()


def _layer_groups(network: SliceNetwork, weight_decay: float, layer_decay: float) -> list[Group]:
    model: Any = network.trunk.model if isinstance(network.trunk, NormalisedTrunk) else None
    if not hasattr(model, "group_matcher"):
        raise ConfigurationError(
            f"trainer.layer_decay={layer_decay} needs the order of the layers, which is known for timm's networks but "
            f"not for {network.backbone}. Give trainer.layer_decay=null, or model=timm."
        )
    from timm import optim

    without = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups: list[Group] = optim.param_groups_layer_decay(  # type: ignore[attr-defined]  # its __init__ imports it
        model, weight_decay=weight_decay, no_weight_decay_list=without, layer_decay=layer_decay
    )
    heads = [(name, value) for name, value in network.named_parameters() if not name.startswith("trunk.")]
    return [
        *({key: group[key] for key in ("params", "weight_decay", "lr_scale")} for group in groups),
        *_decay_groups(heads, weight_decay),
    ]
