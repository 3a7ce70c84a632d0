"""Training of one network on slices: two focal losses, Adam, two decays (sections 2.1.2 and 3.1.1)."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnr_iemn.slices.batches import SharedBatches
from cnr_iemn.slices.datamodule import SliceBatch
from cnr_iemn.slices.losses import focal_loss
from cnr_iemn.slices.metrics import SliceMetrics
from cnr_iemn.slices.network import SliceNetwork
from cnr_iemn.slices.schedules import make_schedule


class SliceClassifier(pl.LightningModule):
    """A SliceNetwork with its losses, metrics and optimizer. The metrics are read and reset by ``EpochScores``.

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
        self.train_metrics = SliceMetrics(n_classes, region_weight=region_weight)
        self.val_metrics = SliceMetrics(n_classes, region_weight=region_weight)

    def training_step(self, batch: SliceBatch, batch_index: int) -> Tensor:
        """Return the loss of one batch, or of this process's piece of it."""
        batches = cast(SharedBatches, cast(DataLoader[Any], self.trainer.train_dataloader).batch_sampler)
        return self._measured_loss(batch, self.train_metrics) * batches.weight(batch_index)

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Update the validation metrics with one batch."""
        self._measured_loss(batch, self.val_metrics)

    def _measured_loss(self, batch: SliceBatch, metrics: SliceMetrics) -> Tensor:
        class_logits, region_logits = self.network(batch["image"], batch["position"])  # [b, classes], [b, regions]
        class_loss = focal_loss(class_logits, batch["label"], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        metrics.update(class_loss, region_loss, class_logits, region_logits, batch)
        return class_loss + self.region_weight * region_loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the gradient's norm. Lightning refuses to beside a fused optimizer in any mixed precision.

        That is for float16, whose scaled gradients such an optimizer unscales itself; bf16 has no scale.
        """
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

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
