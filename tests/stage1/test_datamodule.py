"""Tables, datasets and loaders on scans in memory whose pixels encode their origin."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats

from cnr_iemn.config.schema.settings import AugmentationSettings
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset, SliceTable
from cnr_iemn.stage1.data.samplers import EpochShuffle
from tests.config.test_configuration import compose

CLASSES = ("Normal", "COVID-19", "CAP")
SIZE = 48


class Scans:
    """Grey slices of value 10 x scan + slice; the left half is lung."""

    def __init__(self, n_slices: dict[str, int]) -> None:
        self.values = {
            scan_id: np.broadcast_to((10 * k + np.arange(n, dtype=np.uint8))[:, None, None], (n, SIZE, SIZE)).copy()
            for k, (scan_id, n) in enumerate(n_slices.items())
        }

    def grey(self, scan_id: str) -> np.ndarray:
        return self.values[scan_id]

    def lungs(self, scan_id: str) -> np.ndarray:
        mask = np.zeros_like(self.values[scan_id])
        mask[..., : SIZE // 2] = 1
        return mask


@pytest.fixture
def table() -> SliceTable:
    return SliceTable.of({"a": 7, "b": 5}, {"a": np.array([0, 1, 1, 0, 2, 0, 0]), "b": None})


def dataset(table: SliceTable, *, redraw: bool = False, augment: str = "paper") -> SliceDataset:
    labels = np.where(table.label < 0, 0, table.label)
    items = balance(labels, classes=CLASSES, copies={"COVID-19": 3, "CAP": 10}, augment=augment)
    settings = AugmentationSettings()
    return SliceDataset(
        Scans({"a": 7, "b": 5}), table, image_size=32, items=items, augmentation=settings, redraw=redraw, seed=5
    )


def test_the_table_lists_every_slice_with_region_and_label(table: SliceTable) -> None:
    assert table.slice_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert table.region.tolist() == [5 * i // 7 for i in range(7)] + [0, 1, 2, 3, 4]
    assert table.label.tolist() == [0, 1, 1, 0, 2, 0, 0, -1, -1, -1, -1, -1]


def test_prediction_shows_each_slice_once_as_three_channels(table: SliceTable) -> None:
    data = SliceDataset(Scans({"a": 7, "b": 5}), table, image_size=SIZE)
    assert len(data) == 12
    item = data[9]  # scan b, slice 2
    grey, mask, product = item["image"].numpy()
    assert (grey == 12).all()
    assert (mask[:, : SIZE // 2] == 255).all()
    assert (mask[:, SIZE // 2 :] == 0).all()
    assert np.array_equal(product, np.where(mask > 0, grey, 0))
    assert item["position"].tolist() == pytest.approx([5 / 200, 2.5 / 5])
    assert (int(item["region"]), int(item["label"]), int(item["slice"])) == (2, -1, 9)


def test_copies_come_on_top_of_the_originals(table: SliceTable) -> None:
    data = dataset(table)
    assert len(data) == 12 + 2 * 3 + 1 * 10
    labels = [int(data[k]["label"]) for k in range(len(data))]
    assert labels.count(1) == 2 * 4
    assert labels.count(2) == 1 * 11


def test_copies_made_once_are_the_same_in_every_epoch_and_redrawn_ones_differ(table: SliceTable) -> None:
    warped = int(np.flatnonzero(dataset(table).items.warped)[0])
    once, redrawn = dataset(table), dataset(table, redraw=True)
    first, later = (once[epoch * len(once) + warped]["image"] for epoch in (0, 3))
    assert torch.equal(first, later)
    first, later, again = (redrawn[epoch * len(redrawn) + warped]["image"] for epoch in (0, 3, 3))
    assert not torch.equal(first, later)
    assert torch.equal(later, again)


class Noise(Scans):
    """Slices no two of which are alike, and none like itself after a warp."""

    def __init__(self, n_slices: dict[str, int]) -> None:
        rng = np.random.default_rng(0)
        self.values = {scan_id: rng.integers(0, 256, (n, SIZE, SIZE), np.uint8) for scan_id, n in n_slices.items()}


def test_the_recipe_for_custom_cohorts_leaves_the_same_share_of_every_class_unchanged_in_each_epoch() -> None:
    """Networks are asked for plain slices and must have seen some; and what is plain must not tell the class."""
    settings = compose("train", "data=manifest", "data.csv=x.csv", "balancing=auto")
    counts, epochs = {0: 150, 1: 40, 2: 17}, 3
    label = np.repeat(list(counts), list(counts.values()))
    table = SliceTable.of({"a": len(label)}, {"a": label})
    source, balancing = Noise({"a": len(label)}), settings.balancing
    data = SliceDataset(
        source,
        table,
        image_size=32,
        items=balance(label, classes=CLASSES, copies=balancing.copies, augment=balancing.augment),
        augmentation=AugmentationSettings(**asdict(settings.augmentation)),
        redraw=balancing.redraw,
    )
    plain = SliceDataset(source, table, image_size=32)
    rows = [data[index] for index in range(epochs * len(data))]
    as_it_is = np.array([torch.equal(item["image"], plain[int(item["slice"])]["image"]) for item in rows])
    shown_label = np.array([int(item["label"]) for item in rows])
    table_of_counts = [[(as_it_is & (shown_label == k)).sum(), (~as_it_is & (shown_label == k)).sum()] for k in counts]
    assert 0.1 < as_it_is.mean() < 0.5
    assert stats.chi2_contingency(table_of_counts).pvalue > 0.01
    by_epoch = as_it_is.reshape(epochs, len(data))
    assert len({tuple(row) for row in by_epoch.tolist()}) == epochs
    assert 0 < by_epoch.all(axis=0).mean() < 0.1  # few are plain in all epochs, as few as chance leaves
    assert (~by_epoch).any(axis=0).mean() > 0.9


def test_the_shuffle_shows_each_item_once_an_epoch_in_a_new_order() -> None:
    sampler = EpochShuffle(20, seed=3)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert sorted(epochs[0]) == list(range(20))
    assert sorted(epochs[1]) == list(range(20, 40))
    assert [k - 20 for k in epochs[1]] != epochs[0]


def test_loading_in_workers_gives_the_same_batches(table: SliceTable) -> None:
    batches = []
    for workers in (0, 1):
        module = SliceDataModule(dataset(table, redraw=True), None, batch_size=9, workers=workers, seed=1)
        batches.append(list(module.train_dataloader()))
    assert [len(batch["label"]) for batch in batches[0]] == [9, 9, 10]  # 28 items: a rest of one joins
    for single, other in zip(*batches, strict=True):
        assert all(torch.equal(single[key], other[key]) for key in single)


def test_without_validation_slices_there_is_no_loader(table: SliceTable) -> None:
    assert SliceDataModule(dataset(table), None, batch_size=4, workers=0, seed=0).val_dataloader() == []
