"""A trained network's answer for each slice."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnr_iemn.slices.network import SliceNetwork


@dataclass(frozen=True)
class SliceProbabilities:
    """Probabilities of each slice. ``classes``: float32 [n, n_classes]; ``regions``: float32 [n, n_regions]."""

    classes: NDArray[np.float32]
    regions: NDArray[np.float32]


def predict_slices(
    network: SliceNetwork, batches: Iterable[dict[str, Tensor]], *, device: torch.device, precision: str
) -> SliceProbabilities:
    """Return the probabilities of every slice of ``batches``, in their order.

    ``batches``: with ``image`` uint8 [b, 3, s, s] and ``position`` float32 [b, 2]. ``precision``: 32 or bf16
    (autocast). The network is left in evaluation mode on ``device``.
    """
    network.to(device).eval()
    classes, regions = [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in batches:
            class_logits, region_logits = network(batch["image"].to(device), batch["position"].to(device))
            classes.append(torch.softmax(class_logits.float(), dim=1).cpu())
            regions.append(torch.softmax(region_logits.float(), dim=1).cpu())
    return SliceProbabilities(torch.cat(classes).numpy(), torch.cat(regions).numpy())
