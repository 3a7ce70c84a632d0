"""The LightningModule of bags: the class of a scan from its slices, end to end (docs/method/bags.md)."""

from typing import Any

import torch
from torch import Tensor

from cnr_iemn.data.cohort import UNLABELLED
from cnr_iemn.stage1.data.bags import BagLabels
from cnr_iemn.stage1.data.datamodule import SliceBatch
from cnr_iemn.stage1.models.bags import bag_logits
from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.lightning_module import SliceClassifier


class BagClassifier(SliceClassifier):
    """A SliceNetwork with attention that learns from the classes of scans.

    The loss is the sum of three focal losses: of the class of each bag; of the class of each slice where it is certain
    (``BagLabels``); and of the region of each slice, which needs no label.

    Args:
        network: With attention.
        training: Of the training slices.
        validation: Of the validation slices; None without any.
        arguments: Of ``SliceClassifier``.
    """

    checkpoint_metric = "val/scan_accuracy"
    scan_of_row: Tensor
    class_of_scan: Tensor
    class_of_row: Tensor

    def __init__(
        self, network: SliceNetwork, training: BagLabels, validation: BagLabels | None, **arguments: Any
    ) -> None:
        super().__init__(network, **arguments)
        self.validation = validation
        self.register_buffer("scan_of_row", torch.from_numpy(training.table.scan), persistent=False)
        self.register_buffer("class_of_scan", torch.from_numpy(training.scan), persistent=False)
        self.register_buffer("class_of_row", torch.from_numpy(training.slices), persistent=False)
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, class logits and scores of the epoch

    def training_step(self, batch: SliceBatch, batch_index: int) -> Tensor:
        """Return the loss of one batch of bags."""
        class_logits, region_logits, scores = self._outputs(batch)
        scan = self.scan_of_row[batch["slice"]]
        starts = self._bag_starts(batch["slice"], scan)
        pairs = zip(class_logits.tensor_split(starts), scores.tensor_split(starts), strict=True)
        bags = [bag_logits(*pair) for pair in pairs]
        first = scan[torch.tensor([0, *starts], device=scan.device)]
        class_loss = focal_loss(torch.stack(bags), self.class_of_scan[first], gamma=self.gamma)
        label = self.class_of_row[batch["slice"]]
        certain = label != UNLABELLED
        if certain.any():
            class_loss = class_loss + focal_loss(class_logits[certain], label[certain], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        self.train_metrics.update(class_loss, region_loss, class_logits, region_logits, batch)
        return class_loss + self.region_weight * region_loss

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Update the slices' metrics with one batch, and keep what the scans' need."""
        class_logits, region_logits, scores = self._outputs(batch)
        class_loss = focal_loss(class_logits, batch["label"], gamma=self.gamma)
        region_loss = focal_loss(region_logits, batch["region"], gamma=self.gamma)
        self.val_metrics.update(class_loss, region_loss, class_logits, region_logits, batch)
        self._validated.append((batch["slice"].cpu(), class_logits.float().cpu(), scores.float().cpu()))

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        super().on_validation_epoch_start()
        self._validated = []

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation slices and scans."""
        super().on_validation_epoch_end()
        if self.validation is None or not self._validated:
            return
        rows, logits, scores = (torch.cat(batches) for batches in zip(*self._validated, strict=True))
        scan = torch.from_numpy(self.validation.table.scan)[rows]
        truth = torch.from_numpy(self.validation.scan)
        predicted = torch.stack([bag_logits(logits[scan == k], scores[scan == k]).argmax() for k in range(len(truth))])
        right = (predicted == truth).double()
        recalls = [right[truth == k].mean() for k in range(len(self.classes)) if (truth == k).any()]
        self._log_epoch(
            {
                "val/scan_accuracy": float(right.mean()),
                "val/scan_balanced_accuracy": float(torch.stack(recalls).mean()),
            }
        )

    def _outputs(self, batch: SliceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits [b, classes], region logits [b, regions] and scores [b]."""
        deep = self.network.deep_features(batch["image"])
        scores = self.network.scores(deep, batch["position"])
        assert scores is not None
        return *self.network.heads(deep, batch["position"]), scores

    @staticmethod
    def _bag_starts(rows: Tensor, scan: Tensor) -> list[int]:
        """Return where a bag begins, but the first: another scan, or the same one from its top again."""
        starts = (scan[1:] != scan[:-1]) | (rows[1:] <= rows[:-1])
        return [int(k) + 1 for k in starts.nonzero()[:, 0]]
