"""Altered inputs by hand, and networks with known inputs."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cnr_iemn.ct.window import three_channels
from cnr_iemn.data.slice_store import PixelSettings, SliceStore, StoredScan
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation import ablation
from cnr_iemn.evaluation.ablation import (
    CHEST,
    COUNT,
    LOCATION,
    LUNGS,
    OUTSIDE,
    UNALTERED,
    alterations,
    without_lungs,
    without_outline,
    without_outside,
)
from cnr_iemn.evaluation.study_metrics import Ablations
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.report.tables.methods import ablation_table
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.models.network import position_inputs
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage2.ensemble import Ensemble, Member
from cnr_iemn.stage2.methods.boosted import Boosted, TreeSettings
from cnr_iemn.stage2.methods.descriptions import PERCENTAGES
from cnr_iemn.stage2.scan_predictions import predict_sets

CLASSES = ("a", "b", "c")
SCANS = {f"{label}{k}": label for label in CLASSES for k in range(12)}
HELD_OUT = [name for name in SCANS if int(name[1:]) >= 6]
Reads = Callable[[Tensor, Tensor], Tensor]


def test_each_alteration_keeps_only_its_region_of_an_image() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, (3, 8, 8)).astype(np.uint8)
    lungs = np.zeros_like(grey)
    lungs[0, 2:5, 1:3] = lungs[0, 3:7, 5:7] = lungs[1, 4, 4] = 1  # the last slice has none
    images = torch.from_numpy(three_channels(grey, lungs))
    box = np.zeros_like(grey)
    box[0, 2:7, 1:7] = box[1, 4, 4] = 1
    outside, erased, chest = (change(images).numpy() for change in (without_outside, without_lungs, without_outline))
    for k in range(3):
        np.testing.assert_array_equal(outside[k], three_channels(grey[k] * lungs[k], lungs[k]))
        for altered, gone, mask in ((erased, lungs[k], 255 * lungs[k]), (chest, box[k], 0 * lungs[k])):
            filled = np.where(gone, round(float(grey[k][gone == 0].mean())), grey[k])
            np.testing.assert_array_equal(altered[k], np.stack([filled, mask, 0 * grey[k]]))
    np.testing.assert_array_equal(images.numpy(), three_channels(grey, lungs))  # not touched


def test_positions_are_permuted_within_the_scan_and_counts_taken_from_another() -> None:
    changes = alterations(7, 50, np.random.default_rng(0), inputs={"both"})
    own = torch.from_numpy(position_inputs(np.arange(7), 7))
    batches = [{"position": own[rows], "slice": torch.arange(7)[rows]} for rows in (slice(0, 4), slice(4, 7))]
    located, counted, same = (
        torch.cat([changes[name](batch)["position"] for batch in batches]) for name in (LOCATION, COUNT, UNALTERED)
    )
    assert torch.equal(same, own)
    assert torch.equal(located[:, 0], own[:, 0])
    assert not torch.equal(located[:, 1], own[:, 1])
    assert torch.equal(located[:, 1].sort().values, own[:, 1])
    assert torch.equal(counted[:, 1], own[:, 1])
    assert torch.equal(counted[:, 0], torch.full((7,), 50 / 200))
    assert set(alterations(7, 50, np.random.default_rng(0), inputs={"location", "none"})) == set(changes) - {COUNT}
    assert set(alterations(7, 50, np.random.default_rng(0), inputs={"none"})) == {UNALTERED, OUTSIDE, LUNGS, CHEST}


class Planted(nn.Module):
    """Names the class whose index its reading of image and position is."""

    backbone = "planted"

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def views(self, images: Tensor) -> list[Tensor]:
        return [images]

    def deep_features(self, images: Tensor) -> Tensor:
        return images.float()

    def scores(self, images: Tensor, position: Tensor) -> None:
        return None

    def heads(self, images: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        level = self.reads(images, position)
        return -(level[:, None] - torch.arange(3.0)).abs(), torch.zeros(len(images), 5)


def corner(images: Tensor, position: Tensor) -> Tensor:
    return (images[:, 0, 0, 0] - 40) / 60


def lung(images: Tensor, position: Tensor) -> Tensor:
    inside = images[:, 1] > 0
    return ((images[:, 0] * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1) - 20) / 30


def count(images: Tensor, position: Tensor) -> Tensor:
    return (position[:, 0] * 200 - 21) / 3


def sometimes(images: Tensor, position: Tensor) -> Tensor:
    """The corner's class in the lower half of the scan, the first class above."""
    return torch.where(position[:, 1] > 0.5, corner(images, position), 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """Corner, lungs and number of slices each tell the class."""
    root = tmp_path_factory.mktemp("store")
    for name, label in SCANS.items():
        k = CLASSES.index(label)
        grey = np.full((21 + 3 * k, 16, 16), 40 + 60 * k, np.uint8)
        lungs = np.zeros_like(grey)
        lungs[:, 4:12, 4:12] = 1
        grey[lungs == 1] = 20 + 30 * k
        (root / name).mkdir()
        np.save(root / name / "grey.npy", grey)
        np.save(root / name / "lungs.npy", np.packbits(lungs, axis=-1))
        scan = StoredScan(name, len(grey), 16, (1, 1, 1), tuple(range(len(grey))), 4.0, (), True, "", "")
        (root / name / "scan.json").write_text(json.dumps(asdict(scan)))
    return SliceStore(root, PixelSettings())


def ensemble(folds: tuple[int | None, ...] = (None,)) -> Ensemble:
    members = tuple(Member("planted", "torchvision", "seed0", "", "", 16, "both", "32", fold) for fold in folds)
    return Ensemble("study", members, CLASSES, PixelSettings(), True, "three")


class Ablated(NamedTuple):
    """The ablations, and what they were measured on."""

    ablations: Ablations
    patients: pd.DataFrame
    predict: ablation.Predict


def ablated(
    reads: Reads, store: SliceStore, monkeypatch: pytest.MonkeyPatch, folds: tuple[int | None, ...] = (None,)
) -> Ablated:
    """Fit stage 2 on what the network says of the training scans, and ablate."""

    class Networks(EnsembleNetworks):
        def _load(self, study: Path, member: Member) -> Planted:  # type: ignore[override]
            return Planted(reads)

    monkeypatch.setattr(ablation, "EnsembleNetworks", Networks)
    monkeypatch.setattr(ablation, "choose_hardware", lambda gpus: Hardware(torch.device("cpu"), "32"))
    whole = ensemble(folds)
    networks = Networks(store.root, whole, Hardware(torch.device("cpu"), "32"), batch_size=8)
    saved = ablation.altered_slices(networks, store, list(SCANS), seed=0)[UNALTERED]
    training = [name for name in SCANS if name not in HELD_OUT]
    labels = np.array([CLASSES.index(SCANS[name]) for name in training])
    method = Boosted(PERCENTAGES, TreeSettings(rounds=10))
    fitted = method.fit([saved[name][0] for name in training], labels, whole.axes)
    patients = pd.DataFrame({"label": SCANS, "split": dict.fromkeys(training, TRAINING)}).fillna({"split": VALIDATION})
    predict = partial(predict_sets, fitted)
    found = ablation.ablate(store.root, whole, store, patients, saved, predict)
    return Ablated(found, patients, predict)


@pytest.fixture(scope="module")
def of_corner(store: SliceStore) -> Ablated:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return ablated(corner, store, monkeypatch)


def accuracies(results: Ablated) -> dict[str, float]:
    return {name: each["accuracy"] for name, each in results.ablations["rows"].items()}


def test_a_network_that_reads_the_corner_falls_to_chance_without_the_outside(of_corner: Ablated) -> None:
    found = accuracies(of_corner)
    assert found.pop(OUTSIDE) == pytest.approx(1 / 3)
    assert set(found.values()) == {1.0}
    whole = of_corner.ablations
    assert (whole["n"], whole["networks"], whole["agreement"]) == (18, 1, 1.0)
    row = whole["rows"][OUTSIDE]
    assert row["sensitivity"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert row["scan_changes"] == pytest.approx(2 / 3)
    assert row["slice_changes"] == pytest.approx((24 + 27) / (21 + 24 + 27))
    against = row["comparison"]
    assert (against["only_first"], against["only_second"], against["n"]) == (12, 0, 18)
    assert against["p"] == pytest.approx(2 * 0.5**12)
    assert against["p_holm"] == pytest.approx(5 * against["p"])
    json.dumps(of_corner.ablations, allow_nan=False)


def test_a_network_that_reads_the_lungs_needs_only_them(store: SliceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ablated(lung, store, monkeypatch, folds=(0, 1))
    found = accuracies(results)
    assert (found[UNALTERED], found[OUTSIDE], found[LOCATION], found[COUNT]) == (1, 1, 1, 1)
    rows = results.ablations["rows"]
    assert rows[OUTSIDE]["slice_changes"] == 0
    assert rows[LUNGS]["accuracy"] < 0.7
    assert rows[CHEST]["accuracy"] == pytest.approx(1 / 3)
    assert results.ablations["networks"] == 2


def test_a_network_that_reads_the_number_of_slices_falls_with_it(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = accuracies(ablated(count, store, monkeypatch))
    assert 0.1 < found.pop(COUNT) < 0.6
    assert set(found.values()) == {1.0}


def test_a_network_that_reads_the_position_of_a_slice_changes_with_it(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ablated(sometimes, store, monkeypatch).ablations["rows"]
    assert rows[UNALTERED]["slice_changes"] == rows[COUNT]["slice_changes"] == rows[LUNGS]["slice_changes"] == 0
    assert 0.2 < rows[LOCATION]["slice_changes"] < 0.5


def test_networks_whose_predictions_differ_from_the_saved_ones_are_refused(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ablated(corner, store, monkeypatch)
    other = {name: (np.full((1, store.scan(name).n_slices, 3), 0.3, np.float32),) for name in SCANS}
    with pytest.raises(RunError, match=r"Only 29\.2% of the validation slices get the class that was saved"):
        ablation.ablate(store.root, ensemble(), store, results.patients, other, results.predict)


def test_the_table_has_a_row_for_each_alteration(of_corner: Ablated) -> None:
    table = ablation_table({"classes": list(CLASSES), "ablations": of_corner.ablations})  # type: ignore[typeddict-item]
    assert [row[0] for row in table.rows] == [UNALTERED, OUTSIDE, LUNGS, CHEST, LOCATION, COUNT]
    assert table.rows[0][1:] == ("100.00", "100.00", "100.00", "100.00", "–", "–", "–", "0.00")
    assert table.rows[1][5] == "-66.67"
    low, high = map(float, table.rows[1][6].strip("[]").split(", "))
    assert low < -66.67 < high < 0
