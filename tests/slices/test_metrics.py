"""What is counted over an epoch, against scikit-learn and plain means over the slices."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from cnr_iemn.slices.losses import focal_loss
from cnr_iemn.slices.metrics import SliceMetrics

CLASSES = ("Normal", "COVID-19", "CAP")


def batches(labels: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Three batches of different lengths."""
    generator = torch.Generator().manual_seed(0)
    n = len(labels)
    whole = {
        "class_logits": torch.randn(n, 3, generator=generator),
        "region_logits": torch.randn(n, 5, generator=generator),
        "label": labels,
        "region": torch.randint(0, 5, (n,), generator=generator),
    }
    return [{key: value[a:b] for key, value in whole.items()} for a, b in ((0, 16), (16, 32), (32, n))]


def measured(metrics: SliceMetrics, parts: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    for part in parts:
        losses = (focal_loss(part[f"{k}_logits"], part[t]) for k, t in (("class", "label"), ("region", "region")))
        metrics.update(*losses, part["class_logits"], part["region_logits"], part)
    return metrics.named("val", CLASSES)


def test_the_figures_are_those_of_scikit_learn() -> None:
    labels = torch.randint(0, 3, (45,), generator=torch.Generator().manual_seed(1))
    metrics = SliceMetrics(3, region_weight=0.5)
    parts = batches(labels)
    found = measured(metrics, parts)
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    predicted = whole["class_logits"].argmax(1)
    assert metrics.compute()[0].tolist() == confusion_matrix(labels, predicted).tolist()
    assert found["val/slice_accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["val/slice_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    recalls = [found[f"val/recall_{name}"] for name in CLASSES]
    assert recalls == pytest.approx(recall_score(labels, predicted, average=None))
    regions = accuracy_score(whole["region"], whole["region_logits"].argmax(1))
    assert found["val/region_accuracy"] == pytest.approx(regions)
    class_loss = float(focal_loss(whole["class_logits"], labels))
    region_loss = float(focal_loss(whole["region_logits"], whole["region"]))
    assert found["val/class_loss"] == pytest.approx(class_loss, rel=1e-6)
    assert found["val/region_loss"] == pytest.approx(region_loss, rel=1e-6)
    assert found["val/loss"] == pytest.approx(class_loss + 0.5 * region_loss, rel=1e-6)
    assert metrics.running() == pytest.approx({"loss": found["val/loss"], "accuracy": found["val/slice_accuracy"]})


def test_a_class_without_slices_has_no_recall_and_an_epoch_without_slices_nothing() -> None:
    metrics = SliceMetrics(3)
    found = measured(metrics, batches(torch.arange(45) % 2))
    assert "val/recall_CAP" not in found
    both = [found["val/recall_Normal"], found["val/recall_COVID-19"]]
    assert found["val/slice_balanced_accuracy"] == pytest.approx(sum(both) / 2)
    metrics.reset()
    assert metrics.running() == {}
    assert int(metrics.confusion.sum()) == 0
