"""Predict the probabilities of slices with a trained network."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

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
        precision: As of ``autocast``.
        features: Keep the trunk's features, 4 KB a slice of a ResNet.

    Returns:
        The softmax of both heads, and the features.

    Raises:
        RunError: A probability is not finite.
    """
    network.to(device).eval()
    parts = []
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            image, position = (batch[key].to(device) for key in ("image", "position"))
            classes, regions, deep, *scores = slice_outputs(network, network.deep_features, image, position)
            half = half_precision(deep if features else deep[:, :0])
            parts.append([classes.cpu(), regions.cpu(), half, *(score.cpu() for score in scores)])
    predicted = SliceOutputs(*(torch.cat(of_batches).numpy() for of_batches in zip(*parts, strict=True)))
    if not features:
        predicted = replace(predicted, features=None)
    for probabilities in (predicted.classes, predicted.regions):
        require_finite(probabilities, network.backbone)
    return predicted


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in a precision that a network was trained in, as far as the device has it.

    Args:
        device: A CPU computes in float32 what is fp16 or tf32 on a GPU.
        precision: 32, bf16, fp16 or tf32.
    """
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    half = precision == "bf16" or (precision == "fp16" and device.type == "cuda")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    if precision == "tf32":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with torch.autocast(device.type, dtype, enabled=half):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def slice_outputs(
    network: SliceNetwork, trunk: Callable[[Tensor], Tensor], images: Tensor, position: Tensor
) -> tuple[Tensor, ...]:
    """Return what a network says of slices, the mean over its views (test-time augmentation).

    Args:
        network: Whose heads answer.
        trunk: Its ``deep_features``, or what another program computes for it.
        images: As ``SliceNetwork`` takes them, [b, 3, s, s].
        position: float [b, 2].

    Returns:
        Class and region probabilities, deep features and, of a network with attention, scores; float32 [b, ...].
    """
    views = [_outputs(network, trunk(view), position) for view in network.views(images)]
    return views[0] if len(views) == 1 else tuple(torch.stack(parts).mean(dim=0) for parts in zip(*views, strict=True))


def _outputs(network: SliceNetwork, deep: Tensor, position: Tensor) -> tuple[Tensor, ...]:
    classes, regions = (torch.softmax(logits.float(), dim=1) for logits in network.heads(deep, position))
    scores = network.scores(deep, position)
    return (classes, regions, deep.float(), *([] if scores is None else [scores.float()]))


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
            f"The network {name} gives NaN in place of probabilities for {lost} of {len(probabilities)} slices: its "
            "weights are damaged, or its training has diverged. It is not used. Train it again "
            "(overwrite=true); if it diverged, with a lower trainer.learning_rate."
        )
