"""The head of diseased lobes: its labels as published, what it learns from, and that prediction does without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnr_iemn.config.validation import check_settings
from cnr_iemn.data.cohort import ScanRecord
from cnr_iemn.data.readers.covid_ct_md import read_covid_ct_md
from cnr_iemn.data.readers.lobe_labels import lobe_labels, read_lobes
from cnr_iemn.errors import CohortError, ConfigurationError
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable
from cnr_iemn.stage1.models.losses import focal_loss, lobe_loss
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.checkpoints import load_weights
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.run_record import RunScans
from tests.config.test_configuration import compose
from tests.stage1.test_datamodule import SIZE, Scans

INFECTED = np.array([[0, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)


def lobes_of(infected: np.ndarray) -> np.ndarray:
    lobes = np.zeros((*infected.shape, 5))
    lobes[..., 2] = infected
    lobes[0, 1, 4] = 1
    return lobes


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for folder in ("COVID-19 subjects/P001", "Cap subjects/cap001", "Normal subjects/normal001", "Cap subjects/cap002"):
        (tmp_path / folder).mkdir(parents=True)
    index = "Label Index,Diagnosis,Relative Path,Folder/ID\n0,COVID-19,./COVID-19/,P001\n1,CAP,./CAP/,cap001\n"
    (tmp_path / "Index.csv").write_text(index)
    np.save(tmp_path / "Slice-level-labels-updated-1.npy", INFECTED.astype(np.int32))
    np.save(tmp_path / "Lobe-level-labels-updated-1.npy", lobes_of(INFECTED))
    return tmp_path


def test_each_scan_has_its_rows_and_unlabelled_ones_have_none(cohort: Path) -> None:
    read = read_covid_ct_md(cohort, lobes=True)
    assert np.argwhere(lobe_labels(read.scan("P001"), 3)).tolist() == [[1, 2], [1, 4], [2, 2]]
    assert np.argwhere(lobe_labels(read.scan("cap001"), 4)).tolist() == [[0, 2]]
    assert (lobe_labels(read.scan("normal001"), 2) == 0).all()
    assert np.isnan(lobe_labels(read.scan("cap002"), 2)).all()
    assert all(scan.lobes is None for scan in read_covid_ct_md(cohort).scans)
    weak = ScanRecord("w", "w", cohort, "CAP", slice_labelled=True, weak=True)
    assert np.isnan(lobe_labels(weak, 2)).all()


def test_a_run_is_bound_to_its_lobes_and_one_without_to_what_it_was(cohort: Path) -> None:
    plain, read = read_covid_ct_md(cohort), read_covid_ct_md(cohort, lobes=True)
    sides = {scan.scan_id: "training" for scan in read.scans}
    before, now = (RunScans.of(c, sides, {}, pixels={}).labels for c in (plain, read))
    assert {name for name in now if now[name] != before[name]} == {"P001", "cap001"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values[:, :3], r"shape \(2, 3, 5\).*of the shape \(2, 4, 5\)"),
        (lambda values: values * 2, "neither 0 nor 1"),
        (lambda values: values * 0, "contradicts the slice labels in 3 slices, the first in row 0, column 1"),
    ],
)
def test_other_arrays_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", change(lobes_of(INFECTED)))
    with pytest.raises(CohortError, match=message):
        read_lobes(tmp_path / "l.npy", INFECTED)


def test_no_array_is_refused(cohort: Path) -> None:
    (cohort / "Lobe-level-labels-updated-1.npy").write_bytes(b"damaged")
    with pytest.raises(CohortError, match="cannot be read as lobe labels"):
        read_covid_ct_md(cohort, lobes=True)
    (cohort / "Lobe-level-labels-updated-1.npy").unlink()
    with pytest.raises(CohortError, match=r"There is no Lobe-level-labels-updated-1\.npy.*data\.lobes=false"):
        read_covid_ct_md(cohort, lobes=True)


@pytest.mark.parametrize(("release", "diseased"), [("updated-1", 80), ("original", 39)])
def test_the_published_arrays_agree(release: str, diseased: int, sample_root: Path) -> None:
    scan = read_covid_ct_md(sample_root, labels=release, lobes=True).scan("P001")
    assert scan.lobes is not None
    assert int(scan.lobes.any(axis=1).sum()) == diseased


def test_unknown_lobes_count_nothing_and_parts_of_a_batch_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 5, generator=generator), torch.randint(0, 2, (6, 5), generator=generator).float()
    targets[2:4] = torch.nan
    known = targets.isfinite()
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=2)[known]  # softmax over no and yes is the sigmoid
    expected = focal_loss(pairs, targets[known].long()) * known.sum() / known.numel()
    torch.testing.assert_close(lobe_loss(logits, targets), expected)
    halves = (lobe_loss(logits[:3], targets[:3]) + lobe_loss(logits[3:], targets[3:])) / 2
    torch.testing.assert_close(halves, expected)
    assert lobe_loss(logits[2:4], targets[2:4]) == 0


def classifier(*, lobes: bool) -> SliceClassifier:
    torch.manual_seed(0)
    network = SliceNetwork("resnext50")
    if lobes:
        network.add_lobe_head()
    return SliceClassifier(network.eval(), classes=("Normal", "COVID-19", "CAP"))


def test_the_loss_has_the_lobes_and_all_else_is_as_without() -> None:
    table = SliceTable.of({"a": 3}, {"a": np.array([0, 1, 1])})
    lobes = np.array([[0] * 5, [0, 0, 1, 0, 1], [np.nan] * 5], dtype=np.float32)
    data = SliceDataset(Scans({"a": 3}), replace(table, lobes=lobes), image_size=SIZE)
    batch = torch.utils.data.default_collate([data[k] for k in range(3)])
    np.testing.assert_array_equal(batch["lobes"], lobes)
    assert "lobes" not in SliceDataset(Scans({"a": 3}), table, image_size=SIZE)[0]
    with torch.no_grad():
        without, with_head = classifier(lobes=False), classifier(lobes=True)
        plain = without._measured_loss(batch, without.val_metrics)
        total = with_head._measured_loss(batch, with_head.val_metrics)
        network = with_head.network
        logits = network.lobe_logits(network.deep_features(batch["image"]), batch["position"])
    torch.testing.assert_close(total - plain, lobe_loss(logits, batch["lobes"]))
    assert total > plain
    assert torch.equal(without.val_metrics.confusion, with_head.val_metrics.confusion)


def test_prediction_loads_the_network_without_the_head(tmp_path: Path) -> None:
    trained = classifier(lobes=True)
    state = {f"network.{name}": value for name, value in trained.network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    network = SliceNetwork("resnext50")
    load_weights(network, tmp_path / "best.ckpt")
    assert torch.equal(network.class_head.weight, trained.network.class_head.weight)
    again = classifier(lobes=True).network
    load_weights(again, tmp_path / "best.ckpt")
    assert again.lobe_head is not None
    assert torch.equal(again.lobe_head.weight, trained.network.lobe_head.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("word", ["data.shuffle_training_labels=true", "task=bags"])
def test_what_excludes_the_lobes(word: str) -> None:
    words = ["data.lobes=true", word, *(["data.slice_labels=from_patient"] if word.startswith("task") else [])]
    with pytest.raises(ConfigurationError, match=r"data\.lobes=true.*exclude it"):
        check_settings(compose("train", *words))
