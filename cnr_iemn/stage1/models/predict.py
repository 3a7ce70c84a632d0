"""Predict the probabilities of slices with a trained network."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnr_iemn.errors import RunError
from cnr_iemn.stage1.models.network import SliceNetwork


@dataclass(frozen=True)
class SliceProbabilities:
    """Probabilities of n slices, 0 to 1.

    Attributes:
        classes: float32 [n, n_classes].
        regions: float32 [n, n_regions].
    """

    classes: NDArray[np.float32]
    regions: NDArray[np.float32]


def predict_slices(
    network: SliceNetwork, batches: Iterable[dict[str, Tensor]], *, device: torch.device, precision: str
) -> SliceProbabilities:
    """Return the probabilities of every slice of ``batches``, in their order.

    Args:
        network: Left in evaluation mode on ``device``.
        batches: With ``image`` uint8 [b, 3, s, s] and ``position`` float32 [b, 2].
        device: Where to compute.
        precision: 32 or bf16 (autocast).

    Returns:
        The softmax of both heads.

    Raises:
        RunError: A probability is not finite.
    """
    network.to(device).eval()
    classes, regions = [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in batches:
            class_logits, region_logits = network(batch["image"].to(device), batch["position"].to(device))
            classes.append(torch.softmax(class_logits.float(), dim=1).cpu())
            regions.append(torch.softmax(region_logits.float(), dim=1).cpu())
    predicted = SliceProbabilities(torch.cat(classes).numpy(), torch.cat(regions).numpy())
    for probabilities in (predicted.classes, predicted.regions):
        require_finite(probabilities, network.backbone)
    return predicted


def require_finite(probabilities: NDArray[np.float32], name: str) -> None:
    """Refuse probabilities that are not finite.

    Args:
        probabilities: Of slices, float32 [n, classes].
        name: Of the network.

    Raises:
        RunError: A probability is NaN or infinite.
    """
    lost = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if lost:
        raise RunError(
            f"The network {name} gives no probabilities for {lost} of {len(probabilities)} slices, but NaN: its "
            "weights are damaged, or its training has diverged. Nothing is answered from it. Train it again "
            "(overwrite=true), where it diverged with a lower trainer.learning_rate."
        )
