import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn.functional import cross_entropy

from cnr_iemn.stage1.models.losses import focal_loss, soft_targets


def batch(n=64, classes=5, scale=4.0):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_the_loss_equals_the_direct_formula(gamma):
    logits, targets = batch()
    p = softmax(logits.double().numpy(), axis=1)[np.arange(64), targets.numpy()]
    expected = np.mean((1 - p) ** gamma * -np.log(p))
    assert focal_loss(logits, targets, gamma=gamma).item() == pytest.approx(expected, rel=1e-5)


def test_gamma_is_the_papers_by_default():
    logits, targets = batch()
    assert focal_loss(logits, targets) == focal_loss(logits, targets, gamma=1.5)
    assert focal_loss(logits, targets) != focal_loss(logits, targets, gamma=2.0)


def test_gamma_0_is_cross_entropy_with_its_gradient():
    logits, targets = batch()
    gradients = []
    for loss in (lambda x: focal_loss(x, targets, gamma=0), lambda x: cross_entropy(x, targets)):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_two_equal_logits_give_the_value_computed_by_hand():
    expected = 0.5**1.5 * np.log(2)
    assert focal_loss(torch.zeros(3, 2), torch.tensor([0, 1, 0])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("target", [0, 1])
def test_certainty_right_or_wrong_keeps_loss_and_gradient_finite(gamma, target):
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([target]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(0.0 if target == 0 else 2e4)


def test_bfloat16_logits_are_computed_in_float32():
    logits, targets = batch()
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_loss(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, focal_loss(half.float(), targets))


def test_shares_of_one_class_give_the_loss_of_its_index():
    logits, targets = batch()
    torch.testing.assert_close(focal_loss(logits, soft_targets(targets, 5, smoothing=0)), focal_loss(logits, targets))


def test_smoothed_targets_are_torchs_label_smoothing():
    logits, targets = batch()
    soft = soft_targets(targets, 5, smoothing=0.1)
    torch.testing.assert_close(soft.sum(1), torch.ones(64))
    torch.testing.assert_close(focal_loss(logits, soft, gamma=0), cross_entropy(logits, targets, label_smoothing=0.1))
