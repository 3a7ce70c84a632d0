"""Grad-CAM: where in a slice a network's answer comes from (Selvaraju et al., ICCV 2017).

It tells how sensitive a network is, not where a lesion is or what causes a disease.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.engine.prediction import EnsembleNetworks, OneScan
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.slices.datamodule import SliceDataset, SliceTable
from cnr_iemn.slices.network import SliceNetwork

Maps = NDArray[np.float32]

_MAPS = {  # modules of torchvision's trunk: whose output is averaged to the deep features, and the two before it that
    # have twice and four times as many places a side
    "resnext50": ("layer4", "layer3", "layer2"),
    "wide_resnet50": ("layer4", "layer3", "layer2"),
    "densenet161": ("features", "features.denseblock3", "features.denseblock2"),
    "inception_v3": ("Mixed_7c", "Mixed_6e", "Mixed_5d"),
}
FINEST = 2
"""How many finer maps than the last one are known."""


def last_map(network: SliceNetwork, *, finer: int = 0) -> nn.Module:
    """Return the module that makes the last convolutional feature map, or that of ``finer`` doublings of its places.

    ``finer``: 0 to FINEST. Raises ConfigurationError for a backbone that is none of the paper's four: where its last
    map lies is not known.
    """
    names = _MAPS.get(network.backbone)
    if names is None:
        raise ConfigurationError(
            f"Grad-CAM of {network.backbone} is not known: which map is its last convolutional one would be a guess. "
            f"It is known for {', '.join(_MAPS)}."
        )
    return network.trunk.get_submodule(names[finer])


def grad_cam(network: SliceNetwork, images: Tensor, position: Tensor, *, target: int, finer: int = 0) -> Maps:
    """Return how each place of the images raises the logit of class ``target``: float32 [b, h, w], 0 to 1.

    The feature map's channels, weighted by the mean of the logit's gradient over the map, are summed, negative sums are
    put to zero, and the map is resized to the images and divided by its maximum; nothing raises the logit: all zero.
    ``images``, ``position``: as ``SliceNetwork`` takes them, on its device. ``finer``: see ``last_map``; of small
    inputs the last map tells few places apart (2 x 2 of 56 pixels). The network is left in evaluation mode; it answers
    in its own precision, without autocast. Raises ConfigurationError (``last_map``).
    """
    network.eval()
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        # what goes on is what is kept: DenseNet rectifies it in place afterwards, and then it is the rectified map, as
        # in the others, whose module ends with that; the graph begins here
        kept.append(output.detach().requires_grad_().clone())
        return kept[0]

    hook = last_map(network, finer=finer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits, _ = network(images, position)
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept)  # a slice's logit knows its own map alone
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    raised = torch.relu((weights * kept[0]).sum(dim=1, keepdim=True)).detach()
    resized = nn.functional.interpolate(raised.float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = resized.amax(dim=(1, 2), keepdim=True)
    found: Maps = torch.where(highest > 0, resized / highest, 0).cpu().numpy()
    return found


def mean_map(maps: Iterable[Maps], *, side: int) -> Maps:
    """Return the mean of several networks' maps of the same slices, float32 [b, side, side], 0 to 1.

    ``maps``: at least one, each [b, h, w] at its network's input size; each counts the same.
    """
    resized = [
        np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_LINEAR) for each in some]) for some in maps
    ]
    return np.asarray(np.mean(resized, axis=0), dtype=np.float32)


def ensemble_maps(
    networks: EnsembleNetworks, prepared: PreparedScan, slices: Sequence[int], *, target: int, side: int
) -> Maps | None:
    """Return the mean map of the ensemble's networks for these slices of a scan, float32 [slices, side, side], 0 to 1.

    Networks of timm are left out (``last_map``); None where there are no others.
    """
    shown = [member for member in networks.ensemble.members if member.library == "torchvision"]
    if not shown or not slices:
        return None
    source, table = OneScan(prepared), SliceTable.of({"scan": len(prepared.grey)}, {"scan": None})
    maps = []
    for member in shown:
        dataset = SliceDataset(source, table, image_size=member.image_size)
        batch = default_collate([dataset[k] for k in slices])
        images, position = (batch[key].to(networks.hardware.device) for key in ("image", "position"))
        maps.append(grad_cam(networks.networks[member], images, position, target=target))
    return mean_map(maps, side=side)
