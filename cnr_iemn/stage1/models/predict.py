"""Predict the probabilities of slices with a trained network."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnr_iemn.errors import RunError
from cnr_iemn.stage1.models.network import SliceNetwork

_LARGEST_FEATURE = 65504.0
"""Of float16."""


@dataclass(frozen=True)
class SliceOutputs:
    """What a network says of n slices.

    Attributes:
        classes: Probabilities, 0 to 1, float32 [n, n_classes].
        regions: Probabilities, 0 to 1, float32 [n, n_regions].
        features: The trunk's pooled features, float16 [n, n_features]; None where they are not wanted.
        scores: By whose softmax over a scan ``bag_logits`` weighs its slices, float32 [n]; None without attention.
    """

    classes: NDArray[np.float32]
    regions: NDArray[np.float32]
    features: NDArray[np.float16] | None = None
    scores: NDArray[np.float32] | None = None


def predict_slices(
    network: SliceNetwork,
    batches: Iterable[dict[str, Tensor]],
    *,
    device: torch.device,
    precision: str,
    features: bool = True,
) -> SliceOutputs:
    """Return the outputs of every slice of ``batches``, in their order.

    Args:
        network: Left in evaluation mode on ``device``.
        batches: With ``image`` uint8 [b, 3, s, s] and ``position`` float32 [b, 2].
        device: Where to compute.
        precision: 32 or bf16 (autocast).
        features: Keep the trunk's features, 4 KB a slice of a ResNet.

    Returns:
        The softmax of both heads, and the features.

    Raises:
        RunError: A probability is not finite.
    """
    network.to(device).eval()
    classes, regions, deep_features, scores = [], [], [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in batches:
            deep = network.deep_features(batch["image"].to(device))
            class_logits, region_logits = network.heads(deep, batch["position"].to(device))
            score = network.scores(deep, batch["position"].to(device))
            if score is not None:
                scores.append(score.float().cpu())
            if features:
                deep_features.append(half_precision(deep))
            classes.append(torch.softmax(class_logits.float(), dim=1).cpu())
            regions.append(torch.softmax(region_logits.float(), dim=1).cpu())
    predicted = SliceOutputs(
        torch.cat(classes).numpy(),
        torch.cat(regions).numpy(),
        torch.cat(deep_features).numpy() if features else None,
        torch.cat(scores).numpy() if scores else None,
    )
    for probabilities in (predicted.classes, predicted.regions):
        require_finite(probabilities, network.backbone)
    return predicted


def half_precision(features: Tensor) -> Tensor:
    """Return features as they are kept, float16 on the CPU. What float16 cannot hold becomes its largest value."""
    return features.float().clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE).half().cpu()


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
