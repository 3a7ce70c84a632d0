"""Which parameters decay, and at which rates the layers of a network are trained."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.lr_schedules import make_schedule
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.optimizers import make_optimizer

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

adamw = partial(make_optimizer, name="adamw", learning_rate=1e-3, weight_decay=0.05)


def settings(optimizer: Optimizer, network: nn.Module) -> dict[str, tuple[float, float]]:
    """Return rate and decay of each parameter, each exactly once."""
    names = {id(value): name for name, value in network.named_parameters()}
    found = [
        (names[id(value)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for value in group["params"]
    ]
    assert sorted(name for name, _ in found) == sorted(names.values())
    return dict(found)


@pytest.mark.parametrize(("name", "layer_decay"), [("test_vit", None), ("test_vit", 0.5), ("test_convnext2", 0.5)])
def test_norms_and_biases_and_positions_do_not_decay(name: str, layer_decay: float | None) -> None:
    network = SliceNetwork(name, library="timm")
    found = settings(adamw(network, layer_decay=layer_decay), network)
    for parameter, value in network.named_parameters():
        excluded = value.ndim <= 1 or parameter.endswith(("pos_embed", "cls_token"))
        assert found[parameter][1] == (0 if excluded else 0.05), parameter
    assert found["class_head.weight"] == (1e-3, 0.05)


def test_the_rate_falls_from_the_heads_to_the_first_layer() -> None:
    network = SliceNetwork("test_vit", library="timm")
    found = settings(adamw(network, layer_decay=0.5), network)
    depths = [found[f"trunk.model.blocks.{k}.attn.qkv.weight"][0] for k in range(len(network.trunk.model.blocks))]
    assert len(depths) >= 2
    for shallow, deep in pairwise(depths):
        assert shallow == pytest.approx(deep / 2)
    first, heads = found["trunk.model.patch_embed.proj.weight"][0], found["class_head.weight"][0]
    assert first < depths[0] < depths[-1] <= heads == 1e-3


@pytest.mark.parametrize("schedule", ["steps", "cosine", "one_cycle"])
def test_schedules_keep_the_ratios_of_the_rates(schedule: str) -> None:
    network = SliceNetwork("test_vit", library="timm")
    optimizer = adamw(network, layer_decay=0.5)
    rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
    steps = make_schedule(schedule, optimizer, batches=20, epochs=2, milestones=(1,), decay=0.1)
    for _ in range(12):
        optimizer.step()
        steps.step()
        now = torch.tensor([group["lr"] for group in optimizer.param_groups])
        torch.testing.assert_close(now / now.max(), rates / rates.max())


def test_the_papers_backbones_take_adamw_without_rates_by_layer() -> None:
    network = SliceNetwork("resnext50")
    found = settings(adamw(network), network)
    assert found["trunk.layer4.0.conv1.weight"] == (1e-3, 0.05)
    assert found["trunk.bn1.weight"] == (1e-3, 0.0)
    with pytest.raises(ConfigurationError, match=r"but not for resnext50\. Give trainer\.layer_decay=null"):
        adamw(network, layer_decay=0.7)


def test_adam_is_the_papers() -> None:
    network = SliceNetwork("test_resnet", library="timm")
    optimizer = make_optimizer(network, learning_rate=1e-4)
    assert type(optimizer) is torch.optim.Adam
    assert set(settings(optimizer, network).values()) == {(1e-4, 0)}
