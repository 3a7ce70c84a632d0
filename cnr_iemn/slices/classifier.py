"""Training of one network on slices: two focal losses, Adam, two decays (sections 2.1.2 and 3.1.1)."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from cnr_iemn.registry import N_REGIONS
from cnr_iemn.slices.batches import SharedBatches
from cnr_iemn.slices.datamodule import SliceBatch
from cnr_iemn.slices.losses import focal_loss
from cnr_iemn.slices.network import SliceNetwork
from cnr_iemn.slices.schedules import make_schedule


class SliceMetrics(nn.Module):
    """What is measured over the slices of one epoch on one side of the split."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(n_classes, average="micro")
        self.balanced_accuracy = MulticlassAccuracy(n_classes, average="macro")
        self.region_accuracy = MulticlassAccuracy(N_REGIONS, average="micro")
        self.loss = MeanMetric()

    def update(self, loss: Tensor, class_logits: Tensor, region_logits: Tensor, batch: SliceBatch) -> None:
        """Take in one batch."""
        self.loss.update(loss.detach(), len(batch["label"]))
        self.accuracy.update(class_logits.detach(), batch["label"])
        self.balanced_accuracy.update(class_logits.detach(), batch["label"])
        self.region_accuracy.update(region_logits.detach(), batch["region"])

    def named(self, prefix: str) -> dict[str, Metric]:
        """Return the metrics by the names under which they are logged."""
        return {
            f"{prefix}/loss": self.loss,
            f"{prefix}/slice_accuracy": self.accuracy,
            f"{prefix}/slice_balanced_accuracy": self.balanced_accuracy,
            f"{prefix}/region_accuracy": self.region_accuracy,
        }


class SliceClassifier(pl.LightningModule):
    """A SliceNetwork with its losses, metrics and optimizer.

    ``schedule``, ``milestones``, ``decay``, ``warmup_epochs``: see ``make_schedule``. ``region_weight``: of the region
    task's loss in the sum.
    """

    def __init__(
        self,
        network: SliceNetwork,
        *,
        n_classes: int,
        learning_rate: float = 1e-4,
        schedule: str = "steps",
        milestones: tuple[int, ...] = (3, 6),
        decay: float = 0.1,
        warmup_epochs: float = 0.0,
        gamma: float = 1.5,
        region_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.milestones = milestones
        self.decay = decay
        self.warmup_epochs = warmup_epochs
        self.gamma = gamma
        self.region_weight = region_weight
        self.train_metrics = SliceMetrics(n_classes)
        self.val_metrics = SliceMetrics(n_classes)

    def training_step(self, batch: SliceBatch, batch_index: int) -> Tensor:
        """Return the loss of one batch, or of this process's piece of it."""
        loss = self._measured_loss(batch, self.train_metrics)
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self._log_epoch("train", self.train_metrics, learning_rate=optimizer.param_groups[0]["lr"])
        batches = cast(SharedBatches, cast(DataLoader[Any], self.trainer.train_dataloader).batch_sampler)
        return loss * batches.weight(batch_index)

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Update the validation metrics with one batch."""
        self._measured_loss(batch, self.val_metrics)
        self._log_epoch("val", self.val_metrics)

    def _log_epoch(self, prefix: str, metrics: SliceMetrics, **values: float) -> None:
        """Have Lightning compute, log and reset the metrics at the epoch's end, where callbacks can read them."""
        several = self.trainer.world_size > 1
        self.log_dict({**metrics.named(prefix), **values}, on_step=False, on_epoch=True, sync_dist=several)

    def _measured_loss(self, batch: SliceBatch, metrics: SliceMetrics) -> Tensor:
        class_logits, region_logits = self.network(batch["image"], batch["position"])  # [b, classes], [b, regions]
        class_loss = focal_loss(class_logits, batch["label"], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        loss = class_loss + self.region_weight * region_loss
        metrics.update(loss, class_logits, region_logits, batch)
        return loss

    def configure_optimizers(self) -> Any:
        """Return Adam and its schedule."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, fused=True)
        schedule = make_schedule(
            self.schedule,
            optimizer,
            batches=int(self.trainer.estimated_stepping_batches),
            epochs=cast(int, self.trainer.max_epochs),
            milestones=self.milestones,
            decay=self.decay,
            warmup_epochs=self.warmup_epochs,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
