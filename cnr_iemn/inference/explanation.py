"""Why an ensemble predicted a class: the slices that speak most for it, and Grad-CAM maps of them.

Both show what the model is sensitive to, not where a lesion is or what causes a disease.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from cnr_iemn.constants import BACKBONES, N_GROUPS
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.inference.networks import EnsembleNetworks, InMemoryScan
from cnr_iemn.inference.slice_images import SIDE
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable
from cnr_iemn.stage1.models.backbones import feature_maps
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage2.out_of_fold import ScanArray
from cnr_iemn.stage2.shap_values import Contributions

Heatmaps = NDArray[np.float32]
FINEST_LEVEL = 2
"""Levels are counted from the last feature map, 0; each has twice as many places a side as the one before."""
FEWEST_PLACES = 4
"""A side of the feature map from which Grad-CAM is taken: with fewer, a map would tint all of a lung or nothing."""
_PIXELS_PER_PLACE = 32  # of the last map, in every backbone of the paper


@dataclass(frozen=True)
class KeySlice:
    """A slice that represents a group of slices.

    Attributes:
        index: 0-based, head first.
        group: Its group, 0 to 19.
        contribution: Of the group to the predicted class, log-odds; None where stage 2 has no contributions.
        probability: Of the predicted class, mean over the networks.
    """

    index: int
    group: int
    contribution: float | None
    probability: float


@dataclass(frozen=True)
class Explanation:
    """Key slices and one heatmap each: float32 [keys, SIDE, SIDE], 0 to 1, or None where no network has one."""

    keys: tuple[KeySlice, ...]
    heatmaps: NDArray[np.float32] | None


def key_slices(
    by_group: NDArray[np.float64] | None, sets: Sequence[ScanArray], predicted: int, *, limit: int = 3
) -> tuple[KeySlice, ...]:
    """Return a slice for each of the groups that contributed most to the predicted class, largest contribution first.

    It is the slice of the group to which the networks assign the highest probability of the class. Groups with a
    negative contribution or without a slice are left out. Without contributions the groups are ranked by that highest
    probability instead.

    Args:
        by_group: Contributions to the predicted class, float64 [models, groups]; None where stage 2 has none.
        sets: Class probabilities from each set of networks, float32 [models, n_slices, classes].
        predicted: Index of the predicted class.
        limit: Most slices to return.
    """
    probability = np.mean([array[:, :, predicted].mean(axis=0) for array in sets], axis=0)
    group_of_slice = assign_slice_groups(len(probability), N_GROUPS)
    if by_group is None:
        total = np.array([probability[group_of_slice == group].max(initial=0.0) for group in range(N_GROUPS)])
    else:
        total = by_group.sum(axis=0)
    keys = []
    for group in np.argsort(-total, kind="stable"):
        members = np.flatnonzero(group_of_slice == group)
        if total[group] > 0 and len(members):
            index = int(members[probability[members].argmax()])
            contribution = None if by_group is None else float(total[group])
            keys.append(KeySlice(index, int(group), contribution, float(probability[index])))
    return tuple(keys[:limit])


def explain(
    networks: EnsembleNetworks,
    prepared: PreparedScan,
    *,
    contributions: Contributions | None,
    sets: Sequence[ScanArray],
    predicted: int,
) -> Explanation:
    """Return the key slices of a prediction, with their Grad-CAM maps.

    The arguments are those of ``key_slices`` and ``ensemble_maps``; ``contributions`` are of this scan alone.
    """
    keys = key_slices(None if contributions is None else contributions.by_group[0, predicted], sets, predicted)
    heatmaps = ensemble_maps(networks, prepared, [key.index for key in keys], target=predicted, side=SIDE)
    return Explanation(keys, heatmaps)


def feature_layer(network: SliceNetwork, *, level: int = 0) -> nn.Module:
    """Return the layer whose output is a feature map of the backbone: the last one, or a finer one by ``level``.

    Raises:
        ConfigurationError: The backbone is not one of torchvision's that the project lists.
    """
    names = feature_maps(network.backbone)
    if not names:
        raise ConfigurationError(
            f"Grad-CAM is not available for {network.backbone}, because its last convolutional layer is not known. "
            f"It is available for {', '.join(BACKBONES)}."
        )
    return network.trunk.get_submodule(names[level])


def map_level(image_size: int) -> int:
    """Return the level of the coarsest feature map with ``FEWEST_PLACES`` a side, or the finest level.

    Args:
        image_size: Side of the network's input, pixels: 0 is returned from 128, as for the paper's 224 and 299.
    """
    needed = FEWEST_PLACES * _PIXELS_PER_PLACE
    return next((level for level in range(FINEST_LEVEL) if image_size * 2**level >= needed), FINEST_LEVEL)


def grad_cam(network: SliceNetwork, images: Tensor, position: Tensor, *, target: int, level: int = 0) -> Heatmaps:
    """Return Grad-CAM maps of a class's logit (Selvaraju et al., ICCV 2017).

    The channels of the feature map are summed with the mean of their gradients as weights, rectified, resized to the
    image and divided by the maximum. A map is all zero where nothing raises the logit.

    Args:
        network: Left in evaluation mode. It runs in its own precision, without autocast.
        images: As ``SliceNetwork`` takes them, [b, 3, h, w], on its device.
        position: The slices' positions, float32 [b, 2].
        target: Index of the class.
        level: Of the feature map, 0 to FINEST_LEVEL. The last map of a small input is coarse: 2 x 2 for 56 pixels.

    Returns:
        float32 [b, h, w], 0 to 1.

    Raises:
        ConfigurationError: The backbone's feature maps are not known.
    """
    network.eval()
    activations: list[Tensor] = []

    def record(_: nn.Module, __: object, output: Tensor) -> Tensor:
        # The graph begins here. The copy is passed on: DenseNet rectifies it in place afterwards, so that the recorded
        # map is the rectified one, as in the other backbones, whose layer ends with that.
        activations.append(output.detach().requires_grad_().clone())
        return activations[0]

    hook = feature_layer(network, level=level).register_forward_hook(record)
    try:
        with torch.enable_grad():
            logits, _ = network(images, position)
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), activations)  # each logit needs its own map only
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    coarse = torch.relu((weights * activations[0]).sum(dim=1, keepdim=True)).detach()
    resized = nn.functional.interpolate(coarse.float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = resized.amax(dim=(1, 2), keepdim=True)
    heatmaps: Heatmaps = torch.where(highest > 0, resized / highest, 0).cpu().numpy()
    return heatmaps


def mean_map(maps: Iterable[Heatmaps], *, side: int) -> Heatmaps:
    """Return the mean of several networks' maps of the same slices, float32 [b, side, side], 0 to 1.

    ``maps``: at least one, each [b, h, w] at its network's input size.
    """
    resized = [
        np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR) for image in images])
        for images in maps
    ]
    return np.asarray(np.mean(resized, axis=0), dtype=np.float32)


def ensemble_maps(
    networks: EnsembleNetworks, prepared: PreparedScan, slices: Sequence[int], *, target: int, side: int
) -> Heatmaps | None:
    """Return the networks' mean Grad-CAM maps of these slices, float32 [slices, side, side], 0 to 1.

    Of small inputs a finer feature map is taken (``map_level``). Networks of timm are left out, since their feature
    maps are not known. None without any other network or slice.
    """
    members = [member for member in networks.ensemble.members if member.library == "torchvision"]
    if not members or not slices:
        return None
    source = InMemoryScan(prepared.grey, prepared.lungs)
    table = SliceTable.of({"scan": len(prepared.grey)}, {"scan": None})
    maps = []
    for member in members:
        channels = networks.channels_of(member)
        dataset = SliceDataset(source, table, image_size=member.image_size, channels=channels)
        batch = default_collate([dataset[k] for k in slices])
        images, position = (batch[key].to(networks.hardware.device) for key in ("image", "position"))
        maps.append(view_map(networks.networks[member], images, position, target=target))
    return mean_map(maps, side=side)


def view_map(network: SliceNetwork, images: Tensor, position: Tensor, *, target: int) -> Heatmaps:
    """Return the mean ``grad_cam`` over a network's views of the slices, each turned back to the slice's own side.

    The level is that of ``map_level``.
    """
    level = map_level(images.shape[-1])
    plain, *mirrored = (grad_cam(network, view, position, target=target, level=level) for view in network.views(images))
    maps: Heatmaps = np.mean([plain, *(view[..., ::-1] for view in mirrored)], axis=0, dtype=np.float32)
    return maps
