"""Bags: which slices they hold, what the loss and the answer of a scan are, and that patients' classes are learnt."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from cnr_iemn.data.cohort import UNLABELLED, Cohort, ScanRecord
from cnr_iemn.stage1.data.bags import BagBatches, BagLabels, BagShuffle
from cnr_iemn.stage1.data.datamodule import SliceTable
from cnr_iemn.stage1.models.bags import bag_logits
from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.bag_module import BagClassifier
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes, with_scores

CLASSES = ("Normal", "COVID-19", "CAP")


def cohort_of(labels: dict[str, str], *, read: tuple[str, ...] = ()) -> Cohort:
    """Scans of these classes; a reader has labelled the slices of those in ``read``."""
    scans = tuple(
        ScanRecord(
            scan_id=name,
            patient_id=name,
            label=label,
            path=Path(name),
            infected=np.arange(12) % 2 == 0 if name in read else None,
            slice_labelled=True,
            weak=name not in read,
        )
        for name, label in labels.items()
    )
    return Cohort("any", Path("any"), CLASSES, scans)


def table_of(cohort: Cohort, counts: dict[str, int]) -> SliceTable:
    labels = {
        scan.scan_id: scan.slice_labels(n, CLASSES, lambda n=n: np.ones(n, dtype=bool))
        for scan, n in zip(cohort.scans, counts.values(), strict=True)
    }
    return SliceTable.of(counts, labels)


LABELS = {"a": "Normal", "b": "COVID-19", "c": "CAP", "d": "COVID-19"}
COHORT = cohort_of(LABELS, read=("d",))
TABLE = table_of(COHORT, {"a": 40, "b": 33, "c": 5, "d": 12})


def test_only_healthy_scans_and_readers_tell_the_class_of_a_slice() -> None:
    labels = BagLabels.of(COHORT, TABLE, LABELS)
    assert labels.scan.tolist() == [0, 1, 2, 1]
    by_scan = np.split(labels.slices, [40, 73, 78])
    assert set(by_scan[0].tolist()) == {0}
    assert set(by_scan[1].tolist()) == set(by_scan[2].tolist()) == {UNLABELLED}
    assert by_scan[3].tolist() == [1, 0] * 6
    permuted = BagLabels.of(COHORT, TABLE, {"a": "CAP", "b": "Normal", "c": "CAP", "d": "CAP"}, use_readers=False)
    by_scan = np.split(permuted.slices, [40, 73, 78])
    assert [set(part.tolist()) for part in by_scan] == [{UNLABELLED}, {0}, {UNLABELLED}, {UNLABELLED}]


def test_a_bag_is_one_scan_from_top_to_base_and_rare_classes_have_as_many() -> None:
    labels = BagLabels.of(COHORT, TABLE, LABELS)
    shuffle = BagShuffle(labels, size=10, n_classes=3, seed=3)
    bags = [np.array(bag) for bag in shuffle]
    assert len(bags) == len(shuffle)
    shown = dict.fromkeys(range(4), 0)
    for bag in bags:
        (scan,) = set(TABLE.scan[bag].tolist())
        assert (np.diff(bag) > 0).all()
        rows = shuffle.rows[scan]
        assert len(bag) == min(10, len(rows))
        if len(rows) > 10:  # one of each tenth
            assert (((bag - rows[0]) * 10 // len(rows)) >= np.arange(10) - 1).all()
            assert (np.diff(np.concatenate([[rows[0]], bag, [rows[-1]]])) <= 2 * math.ceil(len(rows) / 10)).all()
        shown[scan] += 1
    assert shown == {0: 4 * 2, 1: 4, 2: 1 * 6, 3: 2}  # COVID-19 has six bags
    again = [np.array(bag) for bag in BagShuffle(labels, size=10, n_classes=3, seed=3)]
    assert all(np.array_equal(one, other) for one, other in zip(bags, again, strict=True))
    shuffle.set_epoch(1)
    later = [np.array(bag) for bag in shuffle]
    assert min(bag.min() for bag in later) >= len(TABLE)  # the epoch, by which the data set draws the warps
    assert any(not np.array_equal(one + len(TABLE), other) for one, other in zip(bags, later, strict=True))
    same = BagShuffle(labels, size=10, n_classes=3, seed=3, repeat=True)
    same.set_epoch(1)
    assert all(np.array_equal(one, other) for one, other in zip(bags, same, strict=True))


@pytest.mark.parametrize("each", [1, 3, 50])
def test_batches_hold_every_bag_once(each: int) -> None:
    shuffle = BagShuffle(BagLabels.of(COHORT, TABLE, LABELS), size=10, n_classes=3, seed=0)
    batches = BagBatches(shuffle, bags=each)
    found = list(batches)
    assert len(found) == len(batches) == math.ceil(20 / each)
    assert [row for batch in found for row in batch] == [row for bag in shuffle for row in bag]


def test_the_class_of_a_scan_is_attention_pooling_of_its_features_with_the_same_head() -> None:
    torch.manual_seed(0)
    network = SliceNetwork("resnext50", attention=True, position="sinusoids").eval()
    torch.nn.init.normal_(network.attention.score.weight, 0, 3)  # type: ignore[union-attr]
    deep, position = torch.rand(7, 2048), torch.rand(7, 2)
    with torch.inference_mode():
        logits, _ = network.heads(deep, position)
        scores = network.scores(deep, position)
        assert scores is not None
        inputs = torch.cat([deep, network.position_network(position)], dim=1)  # type: ignore[misc]
        expected = network.class_head(torch.softmax(scores, dim=0) @ inputs)
        assert scores.std() > 0.1
        torch.testing.assert_close(bag_logits(logits, scores), expected)
        assert SliceNetwork("resnext50").scores(deep, position) is None

        # stage 2 knows probabilities and scores alone, and answers the same
        slices = with_scores(torch.softmax(logits, dim=1).numpy(), scores.numpy())
    axes = Axes(("resnext50",), CLASSES, attention=True)
    fitted = METHODS["attention of the networks"].fit([], np.array([]), axes)
    np.testing.assert_allclose(
        fitted.predict_proba([slices[None]])[0], torch.softmax(expected, dim=0).numpy(), atol=1e-6
    )
    both = np.stack([slices, with_scores(slices[:, :3], None)])  # beside a network without attention
    even = torch.softmax(logits.mean(dim=0), dim=0).numpy()
    expected_mean = (torch.softmax(expected, dim=0).numpy() + even) / 2
    fitted = METHODS["attention of the networks"].fit([], np.array([]), replace(axes, models=("a", "b")))
    np.testing.assert_allclose(fitted.predict_proba([both])[0], expected_mean, atol=1e-6)


class Reader(torch.nn.Module):
    """Stands for a SliceNetwork: its features are the pixels of a slice of 3 x 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.class_head = torch.nn.Linear(48, 3)
        self.attention = torch.nn.Linear(48, 1)

    def deep_features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1)

    def heads(self, deep: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.class_head(deep), torch.zeros(len(deep), 5)

    def scores(self, deep: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return self.attention(deep)[:, 0]


def batch_of(rows: list[int], images: torch.Tensor, table: SliceTable) -> Any:
    return {
        "image": images[rows],
        "position": torch.zeros(len(rows), 2),
        "label": torch.from_numpy(table.label[rows]),
        "region": torch.from_numpy(table.region[rows]),
        "slice": torch.tensor(rows),
    }


def test_the_loss_is_that_of_bags_and_of_slices_that_are_certain() -> None:
    torch.manual_seed(1)
    network = cast(SliceNetwork, Reader())
    labels = BagLabels.of(COHORT, TABLE, LABELS)
    module = BagClassifier(network, labels, None, classes=CLASSES, gamma=1.5, region_weight=0.5)
    images = torch.rand(len(TABLE), 3, 4, 4)
    # twice the same scan one after the other, and a reader's
    bags = [[41, 45, 60], [40, 52], [79, 80, 82], [1, 30]]
    loss = module.training_step(batch_of([row for bag in bags for row in bag], images, TABLE), 0)
    with torch.no_grad():
        logits = [network.heads(network.deep_features(images[bag]), images)[0] for bag in bags]
        scores = [network.scores(network.deep_features(images[bag]), images) for bag in bags]
        pooled = torch.stack([bag_logits(*pair) for pair in zip(logits, scores, strict=True)])  # type: ignore[arg-type]
        expected = focal_loss(pooled, torch.tensor([1, 1, 1, 0]))
        expected += focal_loss(torch.cat(logits[2:]), torch.tensor([0, 1, 1, 0, 0]))
        expected += 0.5 * focal_loss(torch.zeros(1, 5), torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_class_of_scans_of_which_one_slice_tells_is_learnt_from_patients_alone() -> None:
    """And the slice that tells gets the weight, and its own class; slices like those of healthy scans are healthy."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    names = {f"s{k}": CLASSES[k % 3] for k in range(60)}
    cohort = cohort_of(names)
    table = table_of(cohort, dict.fromkeys(names, 20))
    labels = BagLabels.of(cohort, table, names)
    images = torch.rand(len(table), 3, 4, 4)
    tells = np.arange(60) * 20 + rng.integers(20, size=60)
    for k, row in enumerate(tells):
        if k % 3:
            images[row, k % 3, 1] = 3
    network = cast(SliceNetwork, Reader())
    module = BagClassifier(network, labels, labels, classes=CLASSES)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    shuffle = BagShuffle(labels, size=20, n_classes=3, seed=0)
    for epoch in range(30):
        shuffle.set_epoch(epoch)
        for rows in BagBatches(shuffle, bags=6):
            loss = module.training_step(batch_of([row % len(table) for row in rows], images, table), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    logged: dict[str, float] = {}
    module._log_epoch = logged.update  # type: ignore[method-assign]
    module.on_validation_epoch_start()
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(table)), 7):  # scans are cut by batches
            module.validation_step(batch_of(rows.tolist(), images, table), 0)
        module.on_validation_epoch_end()
        deep = network.deep_features(images)
        slices, scores = network.heads(deep, deep)[0].argmax(dim=1), network.scores(deep, deep)
    assert logged["val/scan_accuracy"] > 0.95
    assert logged["val/scan_balanced_accuracy"] == pytest.approx(logged["val/scan_accuracy"])
    assert scores is not None
    diseased = [k for k in range(60) if k % 3]
    assert np.mean([int(scores[20 * k : 20 * k + 20].argmax()) + 20 * k == tells[k] for k in diseased]) > 0.9
    assert np.mean([int(slices[tells[k]]) == k % 3 for k in diseased]) > 0.9
    others = np.setdiff1d(np.arange(len(table)), tells)
    assert (slices[torch.from_numpy(others)] == 0).double().mean() > 0.9


def test_an_attention_starts_even() -> None:
    network = SliceNetwork("resnext50", attention=True).eval()
    with torch.inference_mode():
        scores = network.scores(torch.rand(4, 2048), torch.rand(4, 2))
    assert scores is not None
    assert scores.tolist() == [0, 0, 0, 0]
