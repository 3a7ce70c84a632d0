"""Dropout for networks that have none: a resumed run must draw the same again."""

from typing import Any

import torch
from torch import Tensor

from cnr_iemn.stage1.models.network import SliceNetwork

_plain_heads = SliceNetwork.heads


def heads_with_dropout(network: SliceNetwork, deep: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of deep features of which half are dropped, in training."""
    return _plain_heads(network, torch.dropout(deep, 0.5, network.training), position)


def add_dropout(set_attribute: Any = setattr) -> None:
    """Give all networks dropout before their heads. ``set_attribute``: of a MonkeyPatch, or for good."""
    set_attribute(SliceNetwork, "heads", heads_with_dropout)
