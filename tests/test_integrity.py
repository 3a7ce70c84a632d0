"""No flipped bit is read as another value: predictions, boosters, checkpoints, start weights."""

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.predictions.slice_predictions import read_predictions, write_predictions
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import CnrIemnError, RunError, StoreError, WeightsError
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.stage1.models import backbones
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs, predict_slices, require_finite
from cnr_iemn.stage1.models.tensor_files import UnusableFileError, read_tensors, require_fit, require_tensors
from cnr_iemn.stage1.training.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    drop_training_state,
    load_weights,
    resumable,
    strip_checkpoint,
)
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import RunScans, stored_pixels
from cnr_iemn.stage2.booster import save_booster, train_booster
from cnr_iemn.stage2.ensemble import Member, load_ensemble_method, read_ensemble
from cnr_iemn.stage2.methods.boosted import FittedBooster
from cnr_iemn.stage2.new_scans import read_new_scans, write_new_scans
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.checksums import file_digests
from tests.builders import make_predictions, make_scans
from tests.damages import flipped
from tests.new_scans import make_new_scans, write_study


def test_no_flipped_bit_of_predictions_is_read_as_another_value(tmp_path: Path) -> None:
    path, predictions = tmp_path / "predictions.parquet", make_predictions(scans=make_scans(1, 1))
    write_predictions(path, predictions)
    before, refused = read_predictions(path), 0
    for _, data in flipped(path.read_bytes(), 300):
        path.write_bytes(data)
        try:
            content = read_predictions(path)
        except RunError:
            refused += 1
            continue
        assert content.metadata == before.metadata
        pd.testing.assert_frame_equal(content.table, before.table, check_exact=True)
    assert refused > 200


def test_no_flipped_bit_of_new_scans_is_read_as_another_value(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_new_scans(path, make_new_scans(make_scans(0, 1), folds=(0, 1)))
    before = read_new_scans(path)
    for _, data in flipped(path.read_bytes(), 200, seed=1):
        path.write_bytes(data)
        try:
            content = read_new_scans(path)
        except RunError:
            continue
        assert content.metadata == before.metadata
        for scan_id, scan in before.scans.items():
            assert np.array_equal(content.scans[scan_id].networks, scan.networks)
            assert content.scans[scan_id].grey_sha256 == scan.grey_sha256


@pytest.mark.parametrize("other", ["a flipped bit", "empty", "cut", "garbage", "of another ensemble", "missing"])
def test_another_booster_is_refused_before_xgboost_sees_it(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = write_study(tmp_path)
    ensemble, path = read_ensemble(tmp_path, "study", "two"), folder / "booster.ubj"
    assert isinstance(load_ensemble_method(folder, ensemble, again=""), FittedBooster)
    data = path.read_bytes()
    if other == "of another ensemble":
        features = pd.DataFrame({"a": [0.0, 1.0, 2.0]})
        save_booster(path, train_booster(features, list(ensemble.classes), ensemble.classes, rounds=1))
    elif other == "missing":
        path.unlink()
    elif other != "a flipped bit":
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "garbage": b"\x80\x02garbage"}[other])
    monkeypatch.setattr("xgboost.Booster.load_model", lambda *_: pytest.fail("it was read"))
    for _, changed in flipped(data, 200) if other == "a flipped bit" else [(0, b"")]:
        if other == "a flipped bit":
            path.write_bytes(changed)
        with pytest.raises(RunError, match=r"booster\.ubj is (missing|not the file that ensemble\.json).* Do it again"):
            load_ensemble_method(folder, ensemble, again="Do it again.")


@pytest.mark.parametrize("change", ["classes", "models", "unlisted"])
def test_an_ensemble_whose_booster_is_for_others_is_refused(change: str, tmp_path: Path) -> None:
    _, folder = write_study(tmp_path)
    ensemble = read_ensemble(tmp_path, "study", "two")
    changed = {
        "classes": replace(ensemble, classes=ensemble.classes[::-1]),
        "models": replace(ensemble, members=ensemble.members[::-1]),
        "unlisted": replace(ensemble, files={}),
    }[change]
    with pytest.raises(RunError, match=r"predicts the classes|trained on .* features|does not name booster\.ubj"):
        load_ensemble_method(folder, changed, again="Do it again.")


def test_a_cut_off_aggregation_is_not_answered_from(tmp_path: Path) -> None:
    """A new booster beside the ensemble.json of an older one."""
    _, folder = write_study(tmp_path)
    ensemble = read_ensemble(tmp_path, "study", "two")
    assert set(file_digests(folder)) == {"booster.ubj"}
    features = pd.DataFrame({"a": [0.0, 1.0, 2.0]})
    save_booster(folder / "booster.ubj", train_booster(features, list(ensemble.classes), ensemble.classes, rounds=2))
    with pytest.raises(RunError, match="an aggregation was interrupted between the two"):
        load_ensemble_method(folder, ensemble, again="")


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.BatchNorm1d(5))


def test_no_flipped_bit_of_weights_is_read_as_another_value(small: torch.nn.Module, tmp_path: Path) -> None:
    path, network_tensors = tmp_path / "weights.pth", small.state_dict()
    torch.save(network_tensors, path)
    refused = 0
    for _, data in flipped(path.read_bytes(), 400):
        path.write_bytes(data)
        try:
            content = require_tensors(read_tensors(path, refusal=WeightsError))
            require_fit(content, network_tensors)
        except UnusableFileError:
            refused += 1
            continue
        assert all(torch.equal(content[key], value) for key, value in network_tensors.items())
    assert refused > 100


def test_no_flipped_bit_in_the_head_of_a_record_is_read_as_another_value(
    small: torch.nn.Module, tmp_path: Path
) -> None:
    """Method and attributes in the zip's directory, of which the checksums do not tell."""
    path, network_tensors = tmp_path / "weights.pth", small.state_dict()
    torch.save(network_tensors, path)
    data = path.read_bytes()
    heads = [at.start() for at in re.finditer(rb"PK\x01\x02", data) if b"/data/" in data[at.start() + 46 :][:20]]
    assert len(heads) > 3
    for head in heads[:3]:
        for place in (10, 38):
            for bit in range(8):
                changed = bytearray(data)
                changed[head + place] ^= 1 << bit
                path.write_bytes(changed)
                try:
                    content = require_tensors(read_tensors(path, refusal=WeightsError))
                except UnusableFileError:
                    continue
                assert all(torch.equal(content[key], value) for key, value in network_tensors.items())


def test_weights_that_cannot_be_weights_are_refused(small: torch.nn.Module) -> None:
    network_tensors = small.state_dict()
    weight = network_tensors["0.weight"]
    odd = {
        "is torch.sparse_coo": weight.to_sparse(),
        "is torch.complex64": weight.to(torch.complex64),
        "is torch.qint8": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "is torch.float8_e4m3fn": weight.to(torch.float8_e4m3fn),
        "is without values": weight.to("meta"),
        "holds values that are not numbers": torch.full_like(weight, torch.nan),
        "not numbers": torch.full_like(weight, -torch.inf),
        "of whole numbers": weight.to(torch.int8),
        "of another shape": weight.T,
        "is list in place of a tensor": [1.0],
    }
    for words, value in odd.items():
        with pytest.raises(UnusableFileError, match=words):
            require_fit(require_tensors({**network_tensors, "0.weight": value}), network_tensors)
    for state in ([1], None, "hello", 7):
        with pytest.raises(UnusableFileError, match="in place of a table of tensors"):
            require_tensors(state)
    require_fit(require_tensors({**network_tensors, "0.weight": weight.half()}), network_tensors)


def test_a_file_named_by_its_hash_is_compared_with_it(small: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net-0123abcd.pth"
    torch.save(small.state_dict(), path)
    with pytest.raises(WeightsError, match=r"its SHA-256 does not begin with 0123abcd\. Here they are; give"):
        backbones._read(path, "Here they are")


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04N.", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_text_and_plain_pickles_are_no_start_weights(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CnrIemnError):
        backbones._load(torch.nn.Linear(2, 2), backbones._read(tmp_path / "w.pth", "There"), source="They")


def test_a_network_that_gives_no_numbers_is_not_answered_from(tmp_path: Path) -> None:
    network = SliceNetwork("resnext50", weights="none")
    with torch.no_grad():
        network.class_head.bias[1] = torch.nan
    batch = {"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "position": torch.zeros(2, 2)}
    with pytest.raises(RunError, match="resnext50 gives NaN in place of probabilities for 2 of 2 slices"):
        predict_slices(network, [batch], device=torch.device("cpu"), precision="32")
    with pytest.raises(RunError, match="for 1 of 2 slices"):
        require_finite(np.array([[1, 0], [np.inf, 0]], np.float32), "any")
    torch.save({"state_dict": {f"network.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "best.ckpt")
    with pytest.raises(RunError, match=r"best\.ckpt holds no weights of resnext50 that can be used: class_head\.bias"):
        load_weights(network, tmp_path / "best.ckpt")


def test_whatever_runs_a_network_its_answers_are_looked_at() -> None:
    class Stub(EnsembleNetworks):
        def __init__(self) -> None:
            self._engines = {
                member: lambda batches: SliceOutputs(*(np.full((3, n), np.nan, np.float32) for n in (2, 5)))
            }

    member = Member("net", "timm", "seed0", "x.ckpt", "ab", 32, "both", "32", 1)
    with pytest.raises(RunError, match="net-fold1 gives NaN in place of probabilities for 3 of 3"):
        Stub().predict(member, [])


OF_RUN = {"LastCheckpoint": {"run_id": "run"}}


def checkpoint(network: dict[str, torch.Tensor], **changes: object) -> dict[str, object]:
    """What Lightning keeps of a run, as small as it may be."""
    state = {f"network.{key}": value for key, value in network.items()}
    held: dict[str, object] = {"epoch": 0, "global_step": 1, "state_dict": state, "optimizer_states": [{}]}
    held |= {"lr_schedulers": [], "loops": {}, "callbacks": {**OF_RUN, "MetricsCsv": {"rows": [{"epoch": 0}]}}}
    return {**held, **changes}


def test_checkpoints_that_cannot_go_on_are_set_aside(
    small: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network_tensors, last = small.state_dict(), tmp_path / "last.ckpt"
    torch.save(checkpoint(network_tensors), tmp_path / "previous.ckpt")
    odd: dict[str, object] = {
        "another network": checkpoint({**network_tensors, "0.weight": torch.zeros(2)}),
        "no network": checkpoint({}),
        "no state": {"a": 1},
        "a list": [1, 2],
        "no callbacks": checkpoint(network_tensors, callbacks={}),
        "odd rows": checkpoint(network_tensors, callbacks={**OF_RUN, "MetricsCsv": {"rows": "none"}}),
        "no epoch": checkpoint(network_tensors, epoch="first"),
        "no run": checkpoint(network_tensors, callbacks={"MetricsCsv": {"rows": []}}),
        "a module": small,
    }
    for name, held in odd.items():
        torch.save(held, last)
        assert resumable(tmp_path, network_tensors, "run") == tmp_path / "previous.ckpt", name
        assert not last.exists()
        assert "last.ckpt is damaged (" in capsys.readouterr().err
    torch.save(checkpoint(network_tensors), last)
    assert resumable(tmp_path, network_tensors, "run") == last


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
def test_a_checkpoint_of_another_run_is_refused_and_left_where_it_is(
    name: str, small: torch.nn.Module, tmp_path: Path
) -> None:
    network_tensors = small.state_dict()
    torch.save(
        checkpoint(network_tensors, callbacks={"LastCheckpoint": {"run_id": "other"}, "MetricsCsv": {"rows": []}}),
        tmp_path / name,
    )
    with pytest.raises(RunError, match=rf"{name} is a checkpoint of another run.*overwrite=true"):
        resumable(tmp_path, network_tensors, "run")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
def test_a_folder_in_place_of_a_checkpoint_is_refused(name: str, small: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=rf"{name} is a folder where a checkpoint should be"):
        resumable(tmp_path, small.state_dict(), "run")


def test_the_last_checkpoint_keeps_weights_and_a_killed_run_its_state(small: torch.nn.Module, tmp_path: Path) -> None:
    state, last, previous = checkpoint(small.state_dict()), tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    torch.save(state, last)
    for _ in range(2):  # also where it was killed after the first time
        strip_checkpoint(last)
        assert set(torch.load(last, weights_only=True)) == {"state_dict"}
        assert resumable(tmp_path, small.state_dict(), "run") == previous
        assert set(torch.load(previous, weights_only=True)) == set(state)
    last.unlink()  # killed between the two files
    strip_checkpoint(last)
    assert set(torch.load(last, weights_only=True)) == {"state_dict"}
    for name in ("best.ckpt", "previous_best.ckpt"):
        (tmp_path / name).touch()
    drop_training_state(tmp_path, "last")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt"}
    drop_training_state(tmp_path, "best")
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt"}


def started(folder: Path, sha256: str | None) -> BestCheckpoint:
    """Return the best checkpoint of a run that goes on after its second epoch."""
    best = BestCheckpoint(folder, "val")
    score = torch.tensor(0.75)
    best.load_state_dict({**best.state_dict(), "best_model_score": score, "kth_value": score, "sha256": sha256})
    strategy = SimpleNamespace(barrier=lambda: None)
    trainer: Any = SimpleNamespace(current_epoch=2, is_global_zero=True, strategy=strategy)
    best.on_train_start(trainer, pl.LightningModule())
    return best


def test_the_best_epoch_of_a_run_that_goes_on_is_the_file_that_it_wrote(tmp_path: Path) -> None:
    """A kill between the two leaves a best.ckpt of which last.ckpt does not know, and the one before."""
    best, before = tmp_path / "best.ckpt", tmp_path / "previous_best.ckpt"
    for content in (b"first", b"second"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"content": content}, "optimizer_states": [1]}, best)
    assert torch.load(best, weights_only=False) == {"state_dict": {"content": b"second"}}
    digests = [sha256_of_file(path) for path in (before, best)]
    assert started(tmp_path, digests[1]).best_model_path == str(best)
    assert before.exists()
    started(tmp_path, digests[0])
    assert sha256_of_file(best) == digests[0]
    best.write_bytes(b"of another run")
    with pytest.raises(RunError, match=r"best\.ckpt is not the file that the run has written.*overwrite=true"):
        started(tmp_path, digests[0])
    best.unlink()
    with pytest.raises(RunError, match=r"best\.ckpt is missing"):
        started(tmp_path, digests[0])


@pytest.mark.parametrize("place", ["moved", "relative", "through a link"])
def test_a_moved_run_knows_its_best_epoch(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def best(folder: Path | str) -> BestCheckpoint:
        return BestCheckpoint(Path(folder), "val")

    (tmp_path / "a").mkdir()
    before = best(tmp_path / "a")
    before.best_model_score = before.kth_value = torch.tensor(0.75)
    before.best_model_path = before.kth_best_model_path = str(tmp_path / "a" / "best.ckpt")
    before.best_k_models = {before.best_model_path: torch.tensor(0.75)}
    state = before.state_dict()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    after = best({"moved": tmp_path / "b", "relative": Path("b"), "through a link": tmp_path / "link"}[place])
    after.load_state_dict(state)
    assert float(after.best_model_score or 0) == 0.75
    assert list(after.best_k_models) == [after.best_model_path]
    assert os.path.realpath(after.best_model_path) == os.path.realpath(tmp_path / "b" / "best.ckpt")
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert not after.check_monitor_top_k(trainer, torch.tensor(0.7))
    assert after.check_monitor_top_k(trainer, torch.tensor(0.8))


def test_changed_pixels_labels_and_sides_are_named(tmp_path: Path) -> None:
    names = [f"P{k}" for k in range(7)]
    scans = {kind: dict.fromkeys(names, "a") for kind in ("pixels", "labels", "roles")}
    run = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    record = {"configuration": {}, "store": "cache/a", "scans": scans, "hardware": "one"}
    run.start(record, "")
    run.resume({**record, "store": "elsewhere/a"}, "")
    assert (run.record() or {})["store"] == "elsewhere/a"
    for kind, words in (
        ("pixels", r"changed since: the pixels of P0, P1, P2, P3, P4 and 2 more\."),
        ("labels", r"changed since: patient, class or slice labels of P0"),
        ("roles", r"changed since: side or fold of the split"),
    ):
        now = {**scans, kind: dict.fromkeys(names, "b")}
        with pytest.raises(RunError, match=words):
            run.resume({**record, "scans": now}, "")
    fewer = {**scans, "pixels": dict.fromkeys(names[1:], "a")}
    with pytest.raises(RunError, match=r"the pixels of P0\..*Put the data back"):
        run.resume({**record, "scans": fewer}, "")
    run.update(scans=None)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        run.scans()


def test_labels_count_slice_by_slice() -> None:
    infected = np.array([False, True, False])
    scan = ScanRecord("P1", "P1", Path(), "CAP", True, infected)
    split: dict[str, str] = {"P1": "training"}

    def hashed(record: ScanRecord, fold: dict[str, int]) -> RunScans:
        return RunScans.of(Cohort("one", Path(), ("Normal", "CAP"), (record,)), split, fold, pixels={"P1": "a"})

    first = hashed(scan, {"P1": 0})
    padded = replace(scan, infected=np.array([False, True, False, False]))
    assert first.changes(hashed(padded, {"P1": 0})) == ""
    other = replace(scan, infected=np.array([True, True, False]))
    for record in (other, replace(scan, label="Normal"), replace(scan, patient_id="P2"), replace(scan, infected=None)):
        assert first.changes(hashed(record, {"P1": 0})) == "patient, class or slice labels of P1"
    assert "fold" in first.changes(hashed(scan, {"P1": 1}))
    assert first.sha256 != hashed(scan, {"P1": 1}).sha256


def test_a_missing_scan_of_the_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"lacks scan P1\. Run prepare\.py"):
        stored_pixels(SliceStore(tmp_path, PixelSettings()), ["P1"])
