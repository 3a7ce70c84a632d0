"""Metrics of an epoch, against scikit-learn and plain means over the slices."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.training.lightning_module import SliceMetrics

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


def measured(metrics: SliceMetrics, pieces: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    for piece in pieces:
        losses = (focal_loss(piece[f"{k}_logits"], piece[t]) for k, t in (("class", "label"), ("region", "region")))
        metrics.update(*losses, piece["class_logits"], piece["region_logits"], piece)
    return metrics.as_log_dict("val", CLASSES)


def test_the_figures_equal_those_of_scikit_learn() -> None:
    labels = torch.randint(0, 3, (45,), generator=torch.Generator().manual_seed(1))
    metrics = SliceMetrics(3, region_weight=0.5)
    pieces = batches(labels)
    values = measured(metrics, pieces)
    whole = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
    predicted = whole["class_logits"].argmax(1)
    assert metrics.compute()[0].tolist() == confusion_matrix(labels, predicted).tolist()
    assert values["val/slice_accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert values["val/slice_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    recalls = [values[f"val/recall_{name}"] for name in CLASSES]
    assert recalls == pytest.approx(recall_score(labels, predicted, average=None))
    regions = accuracy_score(whole["region"], whole["region_logits"].argmax(1))
    assert values["val/region_accuracy"] == pytest.approx(regions)
    class_loss = float(focal_loss(whole["class_logits"], labels))
    region_loss = float(focal_loss(whole["region_logits"], whole["region"]))
    assert values["val/class_loss"] == pytest.approx(class_loss, rel=1e-6)
    assert values["val/region_loss"] == pytest.approx(region_loss, rel=1e-6)
    assert values["val/loss"] == pytest.approx(class_loss + 0.5 * region_loss, rel=1e-6)
    assert metrics.running_averages() == pytest.approx(
        {"loss": values["val/loss"], "accuracy": values["val/slice_accuracy"]}
    )


def test_a_class_without_slices_has_no_recall_and_an_epoch_without_slices_nothing() -> None:
    metrics = SliceMetrics(3)
    values = measured(metrics, batches(torch.arange(45) % 2))
    assert "val/recall_CAP" not in values
    both = [values["val/recall_Normal"], values["val/recall_COVID-19"]]
    assert values["val/slice_balanced_accuracy"] == pytest.approx(sum(both) / 2)
    metrics.reset()
    assert metrics.running_averages() == {}
    assert int(metrics.confusion.sum()) == 0
