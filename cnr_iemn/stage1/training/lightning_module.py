"""The LightningModule of stage 1: two focal losses, optimizer and schedule, metrics (sections 2.1.2 and 3.1.1)."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics import Metric

from cnr_iemn.constants import N_REGIONS
from cnr_iemn.stage1.data.batch_mixing import BatchMixing
from cnr_iemn.stage1.data.datamodule import SliceBatch
from cnr_iemn.stage1.data.samplers import SharedBatches
from cnr_iemn.stage1.models.losses import focal_loss, lobe_loss, soft_targets
from cnr_iemn.stage1.models.lr_schedules import make_schedule
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.optimizers import make_optimizer

SYSTEM_PREFIX = "machine/"
"""Prefix of metrics of the machine, not of the training: two runs of one configuration differ in them."""


PAPER_OPTIMIZER = partial(make_optimizer, learning_rate=1e-4)
"""Section 3.1.1."""


class SliceMetrics(Metric):
    """Counts and sums of one epoch on one side of the split, summed over the ranks.

    torchmetrics' own classes would make each figure wait for the GPU in each step (2.2 ms); these add on the device.

    Args:
        n_classes: Number of classes.
        region_weight: Weight of the region task's loss in the total loss.
    """

    full_state_update = False
    confusion: Tensor
    correct_regions: Tensor
    losses: Tensor

    def __init__(self, n_classes: int, *, region_weight: float = 1.0) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.region_weight = region_weight
        counts = torch.zeros(n_classes, n_classes, dtype=torch.int64)
        self.add_state("confusion", counts, dist_reduce_fx="sum")  # [true, predicted]
        self.add_state("correct_regions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("losses", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # class, region

    def update(
        self,
        class_loss: Tensor,
        region_loss: Tensor,
        class_logits: Tensor,
        region_logits: Tensor,
        batch: SliceBatch,
    ) -> None:
        """Add one batch.

        Args:
            class_loss: Mean focal loss of the class task, float [].
            region_loss: Mean focal loss of the region task, float [].
            class_logits: float [b, classes].
            region_logits: float [b, regions].
            batch: With the true classes and regions.
        """
        label = batch["label"]
        cell = label * self.n_classes + class_logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cell, torch.ones_like(cell))
        self.correct_regions += (region_logits.argmax(1) == batch["region"]).sum()
        self.losses.add_(torch.stack((class_loss.detach(), region_loss.detach())), alpha=len(label))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the confusion matrix [true, predicted], the number of right regions, and the sums of both losses."""
        return self.confusion, self.correct_regions, self.losses

    def running_averages(self) -> dict[str, float]:
        """Return loss and accuracy of this rank's slices in the epoch so far; an empty dict before the first batch."""
        confusion, losses = self.confusion.cpu(), self.losses.cpu()
        n = int(confusion.sum())
        if n == 0:
            return {}
        loss = losses[0] + self.region_weight * losses[1]
        return {"loss": float(loss) / n, "accuracy": float(confusion.trace()) / n}

    def as_log_dict(self, prefix: str, classes: Sequence[str]) -> dict[str, float]:
        """Return the epoch's metrics by the names under which they are logged.

        Args:
            prefix: train or val.
            classes: Names of the classes, in order.

        Returns:
            ``<prefix>/loss``, ``slice_accuracy`` and so on; ``recall_<class>`` of the classes that have slices, whose
            mean is the balanced accuracy. An empty dict without any slice.
        """
        confusion, correct_regions, losses = self.compute()
        confusion = confusion.double().cpu()
        n, of_class = float(confusion.sum()), confusion.sum(1)
        if n == 0:
            return {}
        class_loss, region_loss = (losses / n).tolist()
        present = of_class > 0
        recall = confusion.diagonal() / of_class
        recalls = {f"recall_{name}": float(recall[k]) for k, name in enumerate(classes) if present[k]}
        values = {
            "loss": class_loss + self.region_weight * region_loss,
            "class_loss": class_loss,
            "region_loss": region_loss,
            "slice_accuracy": float(confusion.trace()) / n,
            "slice_balanced_accuracy": float(recall[present].mean()),
            "region_accuracy": float(correct_regions) / n,
            **recalls,
        }
        return {f"{prefix}/{name}": value for name, value in values.items()}


class SliceClassifier(pl.LightningModule):
    """A SliceNetwork with its losses, optimizer and metrics.

    Args:
        network: The network to train.
        classes: Names of the classes, in order.
        optimizer: Makes the optimizer of a network.
        schedule: See ``make_schedule``, as ``milestones``, ``decay`` and ``warmup_epochs``.
        milestones: Epochs after which the rate is multiplied by ``decay``.
        decay: Factor on the rate.
        warmup_epochs: Epochs over which the rate first rises.
        gamma: Of the focal loss (section 3.1.1).
        region_weight: Weight of the region task's loss in the total loss; 1 is the paper's plain sum.
        mixing: Of the training batches.
    """

    checkpoint_metric = "val/slice_accuracy"
    """By which the best epoch is chosen, the higher the better."""

    def __init__(
        self,
        network: SliceNetwork,
        *,
        classes: Sequence[str],
        optimizer: Callable[..., Optimizer] = PAPER_OPTIMIZER,
        schedule: str = "steps",
        milestones: tuple[int, ...] = (3, 6),
        decay: float = 0.1,
        warmup_epochs: float = 0.0,
        gamma: float = 1.5,
        region_weight: float = 1.0,
        mixing: BatchMixing | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self.optimizer = optimizer
        self.schedule = schedule
        self.milestones = milestones
        self.decay = decay
        self.warmup_epochs = warmup_epochs
        self.gamma = gamma
        self.region_weight = region_weight
        self.mixing = mixing or BatchMixing()
        self.train_metrics = SliceMetrics(len(self.classes), region_weight=region_weight)
        self.val_metrics = SliceMetrics(len(self.classes), region_weight=region_weight)

        self._learning_rates: list[float] = []  # of the epoch's batches
        self._n_slices = 0  # of the epoch, on this rank
        self._epoch_start = 0.0

    def training_step(self, batch: SliceBatch, batch_index: int) -> Tensor:
        """Return the loss of one batch, or of this process's piece of it."""
        batches = cast(SharedBatches, cast(DataLoader[Any], self.trainer.train_dataloader).batch_sampler)
        loss = self._soft_loss(batch) if self.mixing else self._measured_loss(batch, self.train_metrics)
        return loss * batches.weight(batch_index)

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Update the validation metrics with one batch."""
        self._measured_loss(batch, self.val_metrics)

    def _measured_loss(self, batch: SliceBatch, metrics: SliceMetrics) -> Tensor:
        deep = self.network.deep_features(batch["image"])
        class_logits, region_logits = self.network.heads(deep, batch["position"])  # [b, classes], [b, regions]
        class_loss = focal_loss(class_logits, batch["label"], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        metrics.update(class_loss, region_loss, class_logits, region_logits, batch)
        loss = class_loss + self.region_weight * region_loss
        return loss + self._lobe_loss(deep, batch["position"], batch.get("lobes"))

    def _lobe_loss(self, deep: Tensor, position: Tensor, targets: Tensor | None) -> Tensor | float:
        if self.network.lobe_head is None or targets is None:
            return 0.0
        return lobe_loss(self.network.lobe_logits(deep, position), targets, gamma=self.gamma)

    def _soft_loss(self, batch: SliceBatch) -> Tensor:
        """Return the loss of a batch that is mixed or whose labels are smoothed.

        The metrics count a mixed slice under the class and the region that most of it shows.
        """
        sizes = ((batch["label"], len(self.classes)), (batch["region"], N_REGIONS))
        targets = (soft_targets(values, n, smoothing=self.mixing.label_smoothing) for values, n in sizes)
        lobes = [batch["lobes"]] if "lobes" in batch else []
        images, labels, regions, position, *lobes = self.mixing(batch["image"], *targets, batch["position"], *lobes)
        deep = self.network.deep_features(images)
        class_logits, region_logits = self.network.heads(deep, position)
        class_loss = focal_loss(class_logits, labels, gamma=self.gamma)
        region_loss = focal_loss(region_logits, regions, gamma=self.gamma)
        hard_labels: SliceBatch = {**batch, "label": labels.argmax(1), "region": regions.argmax(1)}
        self.train_metrics.update(class_loss, region_loss, class_logits, region_logits, hard_labels)
        loss = class_loss + self.region_weight * region_loss
        return loss + self._lobe_loss(deep, position, lobes[0] if lobes else None)

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's clock and metrics."""
        self._learning_rates, self._n_slices, self._epoch_start = [], 0, time.monotonic()
        self.train_metrics.reset()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_train_batch_start(self, batch: SliceBatch, batch_idx: int) -> None:
        """Note the batch's learning rate: the schedule takes its next step before the batch's end."""
        self._learning_rates.append(current_learning_rate(self.trainer))

    def on_train_batch_end(self, outputs: Any, batch: SliceBatch, batch_idx: int) -> None:
        """Count the slices; after the last batch log the epoch's training metrics.

        Not in on_train_epoch_end, which Lightning calls after the callbacks that read the metrics, nor after the
        validation, whose time is no part of the speed.
        """
        self._n_slices += len(batch["label"])
        if batch_idx + 1 < self.trainer.num_training_batches:
            return
        seconds = time.monotonic() - self._epoch_start
        values = {
            **self.train_metrics.as_log_dict("train", self.classes),
            "learning_rate": sum(self._learning_rates) / len(self._learning_rates),
            f"{SYSTEM_PREFIX}slices_per_second": self._n_slices * self.trainer.world_size / seconds,
            f"{SYSTEM_PREFIX}process_gib": process_bytes() / 2**30,
        }
        if self.device.type == "cuda":
            values[f"{SYSTEM_PREFIX}gpu_peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._log_epoch(values)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        self.val_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation slices."""
        self._log_epoch(self.val_metrics.as_log_dict("val", self.classes))

    def _log_epoch(self, values: dict[str, float]) -> None:
        """Log for callbacks and checkpoints. Loggers get the values from MetricsCsv, one row an epoch."""
        self.log_dict(values, on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the gradient's norm. Lightning refuses to beside a fused optimizer in any mixed precision.

        That is for float16, for which the optimizer is not fused (``make_optimizer``); bf16 has no scale.
        """
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        optimizer = self.optimizer(self.network, fused=self.trainer.precision != "16-mixed")
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


def current_learning_rate(trainer: pl.Trainer) -> float:
    """Return the learning rate of the present batch; the highest, where layers have rates of their own."""
    return max(float(group["lr"]) for group in trainer.optimizers[0].param_groups)


def process_bytes() -> int:
    """Return the resident memory of this process in bytes; where the system does not report it (macOS), its peak."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * getpagesize()
    return getrusage(RUSAGE_SELF).ru_maxrss  # bytes on macOS
