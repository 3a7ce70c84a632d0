"""The message about a gap between training and validation accuracy: when it appears, and what it names."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from cnr_iemn.config.schema.settings import AugmentationSettings
from cnr_iemn.stage1.data.balancing import TrainingItems
from cnr_iemn.stage1.training.loggers.accuracy_messages import AccuracyGap

CLASSES = ("healthy", "sick")
LABEL = np.repeat([0, 1], [300, 100])


def watcher(
    *, warped: tuple[float, float] = (1.0, 1.0), probability: float = 1.0, validation: tuple[int, ...] = (200, 200)
) -> AccuracyGap:
    """Return the callback of a run that warps such shares of the classes' items, and has such validation slices."""
    rank = np.concatenate([np.arange(n) / n for n in (300, 100)])
    items = TrainingItems(np.arange(400), np.zeros(400, np.int64), rank < np.array(warped)[LABEL])
    table, held_out = SimpleNamespace(label=LABEL), np.repeat(np.arange(len(validation)), validation)
    settings = AugmentationSettings(probability=probability)
    training = SimpleNamespace(items=items, table=table, augmentation=settings)
    held = SimpleNamespace(table=SimpleNamespace(label=held_out)) if validation else None
    return AccuracyGap(cast(Any, SimpleNamespace(training=training, validation=held)), CLASSES)


def recalls(train: tuple[float, ...], val: tuple[float, ...]) -> dict[str, torch.Tensor]:
    sides = (("train", train), ("val", val))
    return {
        f"{side}/recall_{name}": torch.tensor(value)
        for side, values in sides
        for name, value in zip(CLASSES, values, strict=False)
    }


def end_epoch(gap: AccuracyGap, epoch: int, train: tuple[float, ...], val: tuple[float, ...]) -> None:
    trainer: Any = SimpleNamespace(current_epoch=epoch, callback_metrics=recalls(train, val))
    gap.on_train_epoch_end(trainer, pl.LightningModule())


WARPED, HEART = "Every training item is augmented and no validation slice is.", "The network may overfit"
TELLS = "Augmentation reveals the class: 0% of healthy, 75% of sick items are augmented. balancing=auto"


@pytest.mark.parametrize(
    ("options", "train", "val", "words", "epochs"),
    [
        (
            {},
            (0.7, 0.74),
            (0.6, 0.44),
            "balanced accuracy is 72% on the training items and 52% on the validation slices. ",
            1,
        ),
        ({}, (0.7, 0.74), (0.6, 0.44), WARPED, 1),
        ({}, (0.5, 0.6), (0.9, 0.8), "augmentation=standard leaves some", 1),
        ({"warped": (0.0, 0.75)}, (0.99, 0.99), (0.9, 0.4), TELLS, 1),
        ({"warped": (0.0, 1.0)}, (0.5, 0.6), (0.9, 0.8), "Augmentation reveals the class", 1),
        ({"probability": 0.8}, (0.99, 0.99), (0.9, 0.4), HEART, 2),
        ({"warped": (0.0, 0.0)}, (0.99, 0.99), (0.9, 0.4), HEART, 2),
        ({"warped": (0.1 + 0.2, 0.3)}, (0.99, 0.99), (0.9, 0.4), HEART, 2),
        ({"probability": 0.8}, (0.6, 0.6), (0.9, 0.9), "The training items are harder", 2),
    ],
)
def test_a_gap_is_reported_once_with_its_likely_cause(
    options: dict[str, Any], train: tuple[float, ...], val: tuple[float, ...], words: str, epochs: int, capsys: Any
) -> None:
    """What the configuration explains is told at once, a guess after two epochs in a row."""
    gap = watcher(**options)
    end_epoch(gap, 0, train, val)  # the first epoch's training items were measured before they were learnt from
    for epoch in range(1, epochs + 1):
        assert capsys.readouterr().err == ""
        again = watcher(**options)
        again.load_state_dict(gap.state_dict())  # a run that goes on
        gap = again
        end_epoch(gap, epoch, train, val)
    printed = capsys.readouterr().err
    assert printed.startswith(f"Epoch {epochs + 1}: balanced accuracy is")
    assert words in printed
    assert printed.count("\n") == 1
    again = watcher(**options)
    again.load_state_dict(gap.state_dict())
    for callback in (gap, again):
        end_epoch(callback, epochs + 1, train, val)
    assert capsys.readouterr().err == ""


def test_a_single_low_epoch_is_not_reported(capsys: Any) -> None:
    gap = watcher(probability=0.8)
    for epoch in range(1, 8):
        end_epoch(gap, epoch, (0.9, 0.9), (0.4, 0.5) if epoch % 2 else (0.9, 0.8))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "train", "val"),
    [
        ({}, (0.8, 0.8), (0.7, 0.7)),
        ({"validation": (6, 6)}, (0.9, 0.9), (0.7, 0.6)),  # chance alone makes such a gap of twelve slices
        ({"validation": (200, 3)}, (0.9, 0.9), (0.8, 0.6)),
        ({"validation": (200,)}, (0.8, 0.1), (0.85,)),  # validation has one class: the other's recall is no part of it
        ({"validation": ()}, (0.9, 0.9), ()),
    ],
)
def test_nothing_is_reported_for_a_gap_within_chance(
    options: dict[str, Any], train: tuple[float, ...], val: tuple[float, ...], capsys: Any
) -> None:
    gap = watcher(**options)
    for epoch in range(4):
        end_epoch(gap, epoch, train, val)
    assert capsys.readouterr().err == ""
