"""Training of one network on slices: two focal losses, Adam, two decays (sections 2.1.2 and 3.1.1)."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from cnr_iemn.slices.datamodule import SliceBatch
from cnr_iemn.slices.losses import focal_loss
from cnr_iemn.slices.metrics import SliceMetrics
from cnr_iemn.slices.network import SliceNetwork


class SliceClassifier(pl.LightningModule):
    """A SliceNetwork with its losses, metrics and optimizer. The metrics are read and reset by ``EpochScores``.

    ``schedule``: steps, by which the learning rate is multiplied by ``decay`` after the epochs ``milestones``, or
    one_cycle, a rise to ``learning_rate`` over the first fifth of the batches and a cosine's fall to zero. Steps are
    the paper's; one cycle (Smith and Topin 2018) learns more in few hundred batches from random weights.
    ``region_weight``: of the region task's loss in the sum.
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
        gamma: float = 1.5,
        region_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.milestones = milestones
        self.decay = decay
        self.gamma = gamma
        self.region_weight = region_weight
        self.train_metrics = SliceMetrics(n_classes, region_weight=region_weight)
        self.val_metrics = SliceMetrics(n_classes, region_weight=region_weight)

    def training_step(self, batch: SliceBatch, batch_index: int) -> Tensor:
        """Return the loss of one batch."""
        return self._measured_loss(batch, self.train_metrics)

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Update the validation metrics with one batch."""
        self._measured_loss(batch, self.val_metrics)

    def _measured_loss(self, batch: SliceBatch, metrics: SliceMetrics) -> Tensor:
        class_logits, region_logits = self.network(batch["image"], batch["position"])  # [b, classes], [b, regions]
        class_loss = focal_loss(class_logits, batch["label"], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        metrics.update(class_loss, region_loss, class_logits, region_logits, batch)
        return class_loss + self.region_weight * region_loss

    def configure_optimizers(self) -> Any:
        """Return Adam and its schedule, which counts batches, so that a checkpoint knows where in it an epoch ended."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, fused=True)
        batches = int(self.trainer.estimated_stepping_batches)
        schedule: LRScheduler
        if self.schedule == "steps":
            in_epoch = batches // cast(int, self.trainer.max_epochs)
            schedule = MultiStepLR(optimizer, [in_epoch * epoch for epoch in self.milestones], gamma=self.decay)
        else:
            schedule = OneCycleLR(
                optimizer,
                max_lr=self.learning_rate,
                total_steps=batches,
                pct_start=0.2,
                cycle_momentum=False,  # Adam's beta stays
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
