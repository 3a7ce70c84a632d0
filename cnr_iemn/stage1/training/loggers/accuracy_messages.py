"""Sentences on accuracy: a gap between training and validation while a network trains, and the final figures."""

import logging
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset
from cnr_iemn.statistics.metrics import SliceEvaluation

log = logging.getLogger(__name__)

LARGEST = 0.15
"""Largest gap of the balanced accuracies without a message."""
_FIRST_EPOCH = 1  # in the first one the training items were measured by a network that had yet to learn from them
_EPOCHS = 2  # in a row, where nothing but the figures speaks for a fault: early ones go up and down
_RECALL = "recall_"


class AccuracyGap(Callback):
    """Prints once that training and validation accuracy differ, with the likely cause and what to do.

    Args:
        data: Of the training.
        classes: Names, in order.
    """

    def __init__(self, data: SliceDataModule, classes: Sequence[str]) -> None:
        self._data = data
        self._classes = tuple(classes)
        self.printed = False
        self._epochs = 0  # in a row with a gap

    def state_dict(self) -> dict[str, Any]:
        """Return whether the message was printed, and for how many epochs in a row there was a gap."""
        return {"printed": self.printed, "epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.printed, self._epochs = state_dict["printed"], state_dict["epochs"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this epoch's recalls, of the classes that the validation slices have."""
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        recalls = [key.removeprefix("val/") for key in values if key.startswith(f"val/{_RECALL}")]
        if self.printed or trainer.current_epoch < _FIRST_EPOCH or self._data.validation is None or not recalls:
            return
        accuracy = [mean(values[f"{side}/{name}"] for name in recalls) for side in ("train", "val")]
        gap = accuracy[0] - accuracy[1]
        wide = abs(gap) > max(LARGEST, _chance(self._data.validation))
        self._epochs = self._epochs + 1 if wide else 0
        reason = (
            _augmentation_fault(warp_shares(self._data.training, len(self._classes)), self._classes) if wide else None
        )
        if reason is None and self._epochs < _EPOCHS:
            return
        self.printed = True
        log.warning(
            "Epoch %d: balanced accuracy is %.0f%% on the training items and %.0f%% on the validation slices. %s",
            trainer.current_epoch + 1,
            accuracy[0] * 100,
            accuracy[1] * 100,
            reason or _guess(gap),
        )


def _augmentation_fault(shares: NDArray[np.float64], classes: Sequence[str]) -> str | None:
    """Return the fault in which items are augmented, ``shares`` of each class's items; None where there is none."""
    if shares.min() == 1:
        return (
            "Every training item is augmented and no validation slice is. augmentation=standard leaves some training "
            "items unchanged."
        )
    if np.ptp(shares) > 0.02:  # more than whole numbers of items leave
        listed = ", ".join(f"{share:.0%} of {name}" for name, share in zip(classes, shares, strict=True))
        return (
            f"Augmentation reveals the class: {listed} items are augmented. balancing=auto augments all classes alike."
        )
    return None


def _guess(gap: float) -> str:
    if gap < 0:
        return "The training items are harder: reduce the augmentation (augmentation.*), or check the training labels."
    return (
        "The network may overfit (use more patients or fewer trainer.max_epochs), or training and validation scans may "
        "differ in scanner, window or labels (compare slices of both)."
    )


def warp_shares(training: SliceDataset, n_classes: int) -> NDArray[np.float64]:
    """Return the share of each class's training items that an epoch warps, in expectation.

    Args:
        training: With items of every class.
        n_classes: Number of classes.

    Returns:
        float64 [n_classes], 0 to 1, in class order.
    """
    if training.items is None or training.augmentation is None:
        return np.zeros(n_classes)
    label = training.table.label[training.items.source]
    warped = np.bincount(label, weights=training.items.warped, minlength=n_classes)
    return training.augmentation.probability * warped / np.bincount(label, minlength=n_classes)


def _chance(validation: SliceDataset) -> float:
    """Return two standard errors, at most, of the balanced accuracy of so many slices."""
    counts = np.unique(validation.table.label, return_counts=True)[1]
    return float(np.sqrt((1 / counts).sum()) / len(counts))


def validation_sentence(figures: SliceEvaluation | None, classes: Sequence[str], *, selected: bool) -> str:
    """Return the sentence on the validation slices that a finished run prints.

    Args:
        figures: Of the validation slices that have a label; None where no scan is held out for validation.
        classes: Names, in the order of the figures.
        selected: Whether these slices chose the checkpoint or when to stop.

    Returns:
        Accuracy, balanced accuracy and the share of the largest class, which a constant prediction would reach; or why
        there are no figures.
    """
    if figures is None:
        return "No scan is held out for validation, so that no figure tells how good this network is."
    accuracy, balanced = figures["accuracy"], figures["balanced_accuracy"]
    if accuracy is None or balanced is None:
        return (
            "No slice of a validation scan has a label, so that no figure tells how good this network is; its last "
            "epoch counts. Label slices of validation scans, or hold out scans whose slices have labels "
            "(data.split.file)."
        )
    counts = [sum(row) for row in figures["confusion_matrix"]]
    largest = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"validation slices: accuracy {accuracy:.2%}, balanced accuracy {balanced:.2%}; {classes[largest]} alone are "
        f"{counts[largest] / sum(counts):.2%}{' (selected on this set)' if selected else ''}"
    )
