"""The paper's schedule and optimizer; one step trains both tasks."""

from types import SimpleNamespace

import pytest
import torch

from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.lightning_module import SliceClassifier


@pytest.fixture(scope="module")
def classifier() -> SliceClassifier:
    torch.manual_seed(0)
    return SliceClassifier(SliceNetwork("resnext50", weights="none"), classes=("Normal", "COVID-19", "CAP"))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "position": torch.rand(4, 2, generator=generator),
        "label": torch.tensor([0, 1, 2, 0]),
        "region": torch.tensor([0, 1, 4, 2]),
        "slice": torch.arange(4),
    }


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_the_learning_rate_of_each_of_the_ten_epochs(
    precision: str, fused: bool, classifier: SliceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SimpleNamespace(estimated_stepping_batches=70, max_epochs=10, precision=precision)
    monkeypatch.setattr(SliceClassifier, "trainer", property(lambda self: trainer))
    configured = classifier.configure_optimizers()
    # scaled gradients are unscaled before they are clipped, which Lightning leaves to a fused optimizer's own step
    assert configured["optimizer"].param_groups[0]["fused"] == fused
    assert configured["lr_scheduler"]["interval"] == "step"
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer, torch.optim.Adam)
    rates = []
    for _ in range(10):
        of_epoch = set()
        for _ in range(7):
            of_epoch.add(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        rates += of_epoch
    assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 3 + [1e-6] * 4)


def test_the_loss_is_the_plain_sum_of_both_tasks(classifier: SliceClassifier) -> None:
    classifier.eval()
    data = batch()
    with torch.no_grad():
        class_logits, region_logits = classifier.network(data["image"], data["position"])
        expected = focal_loss(class_logits, data["label"]) + focal_loss(region_logits, data["region"])
        loss = classifier._measured_loss(data, classifier.val_metrics)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_both_heads_learn(classifier: SliceClassifier) -> None:
    classifier.train()
    classifier._measured_loss(batch(), classifier.train_metrics).backward()
    for head in (classifier.network.class_head, classifier.network.region_head):
        assert float(head.weight.grad.abs().sum()) > 0
        assert float(head.weight.grad[:, -2:].abs().sum()) > 0  # the position inputs
