"""What is measured over the slices of one epoch, counted where they are computed: no step waits for a number."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from cnr_iemn.slices.datamodule import SliceBatch


class SliceMetrics(Metric):
    """Counts and sums of one epoch on one side of the split, summed over processes where there are several.

    ``region_weight``: of the region task's loss in the sum.
    """

    full_state_update = False
    confusion: Tensor
    right_regions: Tensor
    losses: Tensor

    def __init__(self, n_classes: int, *, region_weight: float = 1.0) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.region_weight = region_weight
        counts = torch.zeros(n_classes, n_classes, dtype=torch.int64)
        self.add_state("confusion", counts, dist_reduce_fx="sum")  # [true, predicted]
        self.add_state("right_regions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("losses", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # class, region

    def update(
        self,
        class_loss: Tensor,
        region_loss: Tensor,
        class_logits: Tensor,
        region_logits: Tensor,
        batch: SliceBatch,
    ) -> None:
        """Take in one batch: mean losses, logits [b, classes] and [b, regions]."""
        label = batch["label"]
        cell = label * self.n_classes + class_logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cell, torch.ones_like(cell))
        self.right_regions += (region_logits.argmax(1) == batch["region"]).sum()
        self.losses.add_(torch.stack((class_loss.detach(), region_loss.detach())), alpha=len(label))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the confusion matrix [true, predicted], the number of right regions, and the sums of both losses."""
        return self.confusion, self.right_regions, self.losses

    def running(self) -> dict[str, float]:
        """Return loss and accuracy of the slices that this process has seen in the epoch; nothing before the first."""
        confusion, losses = self.confusion.cpu(), self.losses.cpu()
        n = int(confusion.sum())
        if n == 0:
            return {}
        loss = losses[0] + self.region_weight * losses[1]
        return {"loss": float(loss) / n, "accuracy": float(confusion.trace()) / n}

    def named(self, prefix: str, classes: Sequence[str]) -> dict[str, float]:
        """Return what was measured by the names under which it is logged; nothing where no slice was seen.

        ``<prefix>/recall_<class>`` of the classes that have slices; their mean is the balanced accuracy.
        """
        confusion, right_regions, losses = self.compute()
        confusion = confusion.double().cpu()
        n, of_class = float(confusion.sum()), confusion.sum(1)
        if n == 0:
            return {}
        class_loss, region_loss = (losses / n).tolist()
        there = of_class > 0
        recall = confusion.diagonal() / of_class
        recalls = {f"recall_{name}": float(recall[k]) for k, name in enumerate(classes) if there[k]}
        values = {
            "loss": class_loss + self.region_weight * region_loss,
            "class_loss": class_loss,
            "region_loss": region_loss,
            "slice_accuracy": float(confusion.trace()) / n,
            "slice_balanced_accuracy": float(recall[there].mean()),
            "region_accuracy": float(right_regions) / n,
            **recalls,
        }
        return {f"{prefix}/{name}": value for name, value in values.items()}
