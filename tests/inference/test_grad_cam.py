"""Grad-CAM against hand-computed maps, class activation maps of the four backbones, and a planted patch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cnr_iemn.constants import BACKBONES
from cnr_iemn.ct.io.acquisition import UNKNOWN
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.inference.explanation import ensemble_maps, feature_layer, grad_cam, map_level, mean_map
from cnr_iemn.stage1.data.input_channels import InputChannels
from cnr_iemn.stage1.models.network import SliceNetwork, position_inputs
from cnr_iemn.stage2.ensemble import Member

POSITION = torch.tensor([[0.5, 0.25], [0.5, 0.75]])


class _Trunk(nn.Module):
    """Two channels: the image's first, blocks of 4 x 4 averaged, and its negative plus 1; then their means."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Conv2d(3, 2, kernel_size=4, stride=4)
        with torch.no_grad():
            self.layer4.weight.zero_()
            self.layer4.weight[0, 0] = 1 / 16
            self.layer4.weight[1, 0] = -1 / 16
            self.layer4.bias.copy_(torch.tensor([0.0, 1.0]))
        self.layer3 = self.layer2 = self.layer4  # the finer maps of a network with one

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.layer4(images), inplace=True).mean(dim=(2, 3))


def tiny(weights: list[list[float]]) -> SliceNetwork:
    network = SliceNetwork("resnext50", n_classes=len(weights))
    network.trunk, network.min_size = _Trunk(), 4
    network.class_head = nn.Linear(4, len(weights))
    network.region_head = nn.Linear(4, 5)
    with torch.no_grad():
        network.class_head.weight.copy_(torch.tensor(weights))
    return network


def patched() -> torch.Tensor:
    """Two images, 16 x 16, dark but for the block of rows 8 to 11 and columns 4 to 7 of the first."""
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0, 8:12, 4:8] = 1
    return images


def test_the_map_by_hand() -> None:
    """alpha_k = w_k / 16; the map of class 1 is relu(2 A_0 - A_1) / 16, its maximum at the patch alone."""
    heatmaps = grad_cam(tiny([[0.0, 1.0, 5.0, 5.0], [2.0, -1.0, 5.0, 5.0]]), patched(), POSITION, target=1)
    coarse = torch.zeros(2, 1, 4, 4)
    coarse[0, 0, 2, 1] = 2 / 16
    by_hand = nn.functional.interpolate(coarse, (16, 16), mode="bilinear")[:, 0]
    np.testing.assert_allclose(heatmaps, (by_hand / by_hand.max()).numpy(), atol=1e-6)
    assert heatmaps.dtype == np.float32
    assert heatmaps[0].max() == 1
    assert not heatmaps[1].any()  # of the dark image only the other channel is there, and that one speaks against


def test_the_map_follows_the_patch_of_the_target_class() -> None:
    network = tiny([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    for row, column in ((0, 0), (4, 8), (12, 12)):
        images = torch.zeros(1, 3, 16, 16)
        images[0, 0, row : row + 4, column : column + 4] = 1
        bright, dark = (grad_cam(network, images, POSITION[:1], target=k)[0] for k in (1, 0))
        inside = np.zeros((16, 16), bool)
        inside[row : row + 4, column : column + 4] = True
        assert inside[np.unravel_index(bright.argmax(), bright.shape)]
        assert bright[inside].sum() > 0.4 * bright.sum()
        assert dark[inside].mean() < 0.5 * dark[~inside].mean()


@pytest.fixture(scope="module", params=list(BACKBONES))
def real(request: pytest.FixtureRequest) -> tuple[SliceNetwork, torch.Tensor]:
    torch.manual_seed(0)
    network = SliceNetwork(request.param).eval()
    network.class_head.weight.data += 0.02  # what raises the logit outweighs what lowers it
    side = max(64, network.min_size)
    return network, torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)


def test_for_the_four_backbones_the_map_is_the_class_activation_map(real: tuple[SliceNetwork, torch.Tensor]) -> None:
    """Where features are means of the map, Grad-CAM is Zhou's CAM: the head's weights times the rectified map."""
    network, images = real
    activations: list[torch.Tensor] = []
    hook = feature_layer(network).register_forward_hook(lambda *call: activations.append(call[2].detach().clone()))
    with torch.no_grad():
        network(images, POSITION)
    hook.remove()
    activation = activations[0].relu()
    assert activation.shape[1] == network.class_head.in_features - 2
    weights = network.class_head.weight[2, : activation.shape[1]].detach()
    raised = torch.einsum("c,bchw->bhw", weights, activation).relu()
    expected = nn.functional.interpolate(raised[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    expected = expected / expected.amax(dim=(1, 2), keepdim=True)
    heatmaps = grad_cam(network, images, POSITION, target=2)
    np.testing.assert_allclose(heatmaps, expected.numpy(), atol=1e-4)
    assert heatmaps.max() == 1


def test_the_map_is_zero_where_the_head_reads_nothing(real: tuple[SliceNetwork, torch.Tensor]) -> None:
    network, images = real
    original = network.class_head.weight.data.clone()
    network.class_head.weight.data[1, :-2] = 0  # the position alone
    try:
        assert not grad_cam(network, images, POSITION, target=1).any()
        assert grad_cam(network, images, POSITION, target=0).any()
    finally:
        network.class_head.weight.data = original


def test_the_network_predicts_as_before(real: tuple[SliceNetwork, torch.Tensor]) -> None:
    network, images = real
    with torch.no_grad():
        before = network(images, POSITION)[0]
        grad_cam(network, images, POSITION, target=0)
        assert torch.equal(network(images, POSITION)[0], before)
    assert not feature_layer(network)._forward_hooks
    assert all(parameter.grad is None for parameter in network.parameters())


def test_networks_count_the_same_at_any_size() -> None:
    left, right = np.zeros((1, 4, 4), np.float32), np.full((1, 8, 8), 0.5, np.float32)
    left[0, :2] = 1
    heatmaps = mean_map([left, right], side=8)
    assert heatmaps.shape == (1, 8, 8)
    assert heatmaps[0, 0, 0] == pytest.approx(0.75)
    assert heatmaps[0, 7, 0] == pytest.approx(0.25)


def loaded(networks: dict[Member, SliceNetwork]) -> Any:
    """What ``ensemble_maps`` asks of an ensemble's networks."""
    ensemble, hardware = SimpleNamespace(members=list(networks)), SimpleNamespace(device=torch.device("cpu"))
    paper = InputChannels()
    return SimpleNamespace(networks=networks, ensemble=ensemble, hardware=hardware, channels_of=lambda _: paper)


@pytest.mark.parametrize(("size", "level"), [(224, 0), (299, 0), (128, 0), (127, 1), (75, 1), (63, 2), (32, 2)])
def test_small_inputs_take_a_finer_map(size: int, level: int) -> None:
    assert map_level(size) == level


def test_an_ensemble_s_map_of_the_selected_slices_is_the_mean_over_its_networks() -> None:
    identity = "seed0", "x.ckpt", "ab"
    follows, against = (Member("resnext50", "torchvision", *identity, 16, "both", "32", fold) for fold in (0, 1))
    right = Member("resnext50", "timm", *identity, 16, "both", "32")
    networks = {
        follows: tiny([[1.0, 0.0, 0.0, 0.0]]),
        against: tiny([[0.0, 1.0, 0.0, 0.0]]),
        right: tiny([[5.0, 5.0, 5.0, 5.0]]),
    }
    grey = np.zeros((3, 16, 16), np.uint8)
    grey[2, 8:12, 4:8] = 255
    scan = PreparedScan(grey, grey > 0, (1, 1, 1), np.arange(3.0), 1.0, (), False, "50", UNKNOWN)
    heatmaps = ensemble_maps(loaded(networks), scan, [2], target=0, side=16)
    images, position = torch.zeros(1, 3, 16, 16), torch.from_numpy(position_inputs([2], 3))
    images[0, 0, 8:12, 4:8] = 1
    level = map_level(16)
    member_maps = [grad_cam(networks[member], images, position, target=0, level=level) for member in (follows, against)]
    np.testing.assert_allclose(heatmaps, (member_maps[0] + member_maps[1]) / 2, atol=1e-6)
    assert ensemble_maps(loaded({right: networks[right]}), scan, [2], target=0, side=16) is None
    assert ensemble_maps(loaded(networks), scan, [], target=0, side=16) is None


def test_a_backbone_without_a_known_map_is_refused() -> None:
    network = tiny([[1.0, 0.0, 0.0, 0.0]])
    network.backbone = "vit_tiny"
    with pytest.raises(ConfigurationError, match=r"not available for vit_tiny.*resnext50"):
        grad_cam(network, patched(), POSITION, target=0)
