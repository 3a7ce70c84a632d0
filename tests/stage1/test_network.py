import copy

import numpy as np
import pytest
import torch

from cnr_iemn.constants import BACKBONES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.network import SliceNetwork, position_inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BACKBONES)
def network(request):
    torch.manual_seed(0)
    return SliceNetwork(request.param)


@pytest.fixture(scope="module")
def resnext():
    torch.manual_seed(0)
    return SliceNetwork("resnext50").eval()


def images(size, n=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def positions(slice_index, n_slices):
    return torch.from_numpy(position_inputs(slice_index, n_slices))


def test_position_inputs_are_the_scaled_number_of_slices_and_the_middle_of_the_slice():
    values = position_inputs([0, 1, 149], [2, 2, 150])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [[0.01, 0.25], [0.01, 0.75], [0.75, 149.5 / 150]], rtol=1e-6)
    assert position_inputs(3, 20).shape == (2,)
    assert position_inputs(np.arange(7), 7)[:, 1].mean() == pytest.approx(0.5)  # head and foot are treated alike


def test_both_heads_see_the_deep_features_and_two_more(network):
    features = BACKBONES[network.backbone].features  # torchvision's own, in test_backbones.py
    assert network.class_head.in_features == network.region_head.in_features == features + 2
    assert network.class_head.out_features == 3
    assert network.region_head.out_features == 5
    assert not [key for key in network.state_dict() if "Aux" in key]
    # what torchvision would have classified with is gone
    heads = [name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert heads == ["class_head", "region_head"]


def test_every_parameter_learns_from_the_two_heads(network):
    network = copy.deepcopy(network).train()
    size = 2 * BACKBONES[network.backbone].minimum_size
    loss = torch.nn.functional.cross_entropy
    target = torch.tensor([0, 1, 2, 0])
    step = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):  # random ResNets start with residual branches of gain zero: the first step opens them
        step.step()
        step.zero_grad()
        class_logits, region_logits = network(images(size, n=4), positions([2, 9, 30, 77], [100, 10, 50, 200]))
        (loss(class_logits, target) + loss(region_logits, target)).backward()
    assert class_logits.shape == (4, 3)
    assert region_logits.shape == (4, 5)
    assert [name for name, layer in network.named_parameters() if layer.grad is None or not layer.grad.any()] == []
    for head in (network.class_head, network.region_head):
        assert head.weight.grad[:, -2:].abs().min() > 0


def test_a_too_small_image_is_refused_with_the_minimum(network):
    smallest = BACKBONES[network.backbone].minimum_size
    with pytest.raises(ConfigurationError, match=f"{network.backbone}.*model.image_size={smallest}"):
        network(images(smallest - 1), positions([0, 1], 20))
    with torch.inference_mode():
        logits, _ = network.eval()(images(smallest), positions([0, 1], 20))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("head", [0, 1])
def test_each_head_trains_only_itself_and_the_backbone(resnext, head):
    resnext.zero_grad()
    resnext(images(32), positions([4, 5], 20))[head].square().sum().backward()
    heads = (resnext.class_head, resnext.region_head)
    assert heads[head].weight.grad.any()
    assert heads[1 - head].weight.grad is None
    assert resnext.trunk.conv1.weight.grad.any()
    resnext.zero_grad()


@pytest.mark.parametrize("change", [([5, 5], [60, 60]), ([9, 9], [20, 20])], ids=["n_slices", "slice_index"])
def test_position_changes_both_outputs_by_the_weights_of_the_heads(resnext, change):
    before, after = positions([5, 5], [20, 20]), positions(*change)
    with torch.inference_mode():
        first, second = resnext(images(32), before), resnext(images(32), after)
    for head, a, b in zip((resnext.class_head, resnext.region_head), first, second, strict=True):
        assert (a - b).abs().min() > 0
        torch.testing.assert_close(b - a, (after - before) @ head.weight[:, -2:].T, rtol=1e-3, atol=1e-6)


def test_position_inputs_receive_gradient(resnext):
    position = positions([5, 5], 20).requires_grad_()
    for logits in resnext(images(32), position):
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), position, retain_graph=True)
        assert gradient.abs().min() > 0


@pytest.mark.parametrize(("position", "more"), [("both", 2), ("location", 1), ("none", 0), ("sinusoids", 32)])
def test_position_is_fused_as_configured_with_any_number_of_classes(position, more):
    network = SliceNetwork("resnext50", n_classes=2, n_regions=4, position=position).eval()
    assert network.class_head.in_features == network.region_head.in_features == 2048 + more
    with torch.inference_mode():
        first, other_n, other_place = (
            torch.cat(network(images(32), torch.tensor([[n, place]] * 2)), dim=1)
            for n, place in ((0.5, 0.5), (0.9, 0.5), (0.5, 0.9))
        )
    assert first.shape == (2, 2 + 4)
    assert torch.equal(first, other_n) == (position in ("location", "none"))
    assert torch.equal(first, other_place) == (position == "none")


def test_bytes_are_scaled_to_one(resnext):
    with torch.inference_mode():
        from_bytes = resnext(images(32), positions([0, 1], 20))
        from_floats = resnext(images(32).float() / 255, positions([0, 1], 20))
    torch.testing.assert_close(from_bytes, from_floats)
    sizes = []
    hook = resnext.trunk.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0]))
    resnext(torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32), positions([0], 20))
    hook.remove()
    torch.testing.assert_close(sizes[0][0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))


def test_bfloat16_keeps_neighbouring_slices_apart(resnext):
    """Near 1 bfloat16 knows only multiples of 1/256: of 300 slices, two or three would share one location."""
    same = resnext.trunk.register_forward_hook(lambda _, inputs, deep: deep[:1].expand(300, -1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        class_logits, region_logits = resnext(images(32), positions(np.arange(300), 300))
    same.remove()
    assert class_logits.dtype == region_logits.dtype == torch.float32
    steps = region_logits.diff(dim=0)
    torch.testing.assert_close(steps, (resnext.region_head.weight[:, -1] / 300).expand(299, -1), rtol=0.02, atol=2e-6)


def test_random_weights_follow_the_seed():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(SliceNetwork("resnext50").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["trunk.conv1.weight"], states[2]["trunk.conv1.weight"])
    assert not torch.equal(states[0]["class_head.weight"], states[2]["class_head.weight"])


def test_unknown_names_are_errors_that_list_the_known():
    with pytest.raises(ConfigurationError, match="both, location, none"):
        SliceNetwork("resnext50", position="front")
    with pytest.raises(ConfigurationError, match="resnext50, densenet161"):
        SliceNetwork("vgg16")
