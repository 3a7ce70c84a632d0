"""Where a run computes and what it takes there, as far as a machine without a GPU can show it."""

import sys
from multiprocessing import get_start_method, set_start_method
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnr_iemn.engine import distributed
from cnr_iemn.engine.callbacks import AveragedWeights
from cnr_iemn.engine.checkpoints import EpochSeed
from cnr_iemn.engine.distributed import loader_workers
from cnr_iemn.engine.hardware import Hardware, fastest_convolutions
from cnr_iemn.slices.datamodule import SliceDataModule, plain_loader

GPU = torch.device("cuda")


class Threads(Dataset[dict[str, Tensor]]):
    """Its items tell how many threads OpenCV has."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"threads": torch.tensor(cv2.getNumThreads())}


def test_opencv_has_one_thread_in_a_loading_process() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.resize(np.zeros((512, 512), np.uint8), (299, 299))  # the threads are there when the process forks
        (batch,) = plain_loader(Threads(), 2, workers=1)
    finally:
        cv2.setNumThreads(before)
    assert int(batch["threads"].max()) <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
def test_loaders_fork_also_in_a_process_that_was_spawned() -> None:
    data = Threads()
    data.nothing_that_can_be_sent = lambda: None  # type: ignore[attr-defined]
    module = SliceDataModule(cast(Any, data), None, batch_size=2, workers=1, seed=0)
    before = get_start_method()
    set_start_method("spawn", force=True)
    try:
        for loader in (plain_loader(data, 2, workers=1), module.train_dataloader()):
            assert len(list(loader)) == 1
    finally:
        set_start_method(before, force=True)


def test_averaged_weights_lie_where_the_network_is_trained() -> None:
    module = pl.LightningModule()
    module.layer = torch.nn.Linear(2, 2)
    average = AveragedWeights(0.9, torch.device("meta"))
    average.setup(cast(pl.Trainer, SimpleNamespace()), module, "fit")
    assert {each.device.type for each in cast(Any, average)._average_model.parameters()} == {"meta"}


def drawn(seed: int, epoch: int, rank: int) -> list[float]:
    torch.rand(epoch + 3)  # whatever was drawn before
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_batch_start(trainer, pl.LightningModule(), None, 0)
    return [float(value) for value in torch.rand(3)]


def test_random_numbers_of_an_epoch_depend_on_seed_epoch_and_process_alone() -> None:
    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({tuple(drawn(*words)) for words in ((1, 2, 3), (0, 2, 3), (1, 1, 3), (1, 2, 0))}) == 4


def test_processes_of_a_machine_share_its_cores_for_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "usable_cores", lambda: 16)
    assert loader_workers(Hardware(GPU, "bf16")) == 8
    assert loader_workers(Hardware(GPU, "bf16", processes=4)) == 3
    assert loader_workers(Hardware(torch.device("cpu"), "32", processes=2)) == 0
    monkeypatch.setattr(distributed, "usable_cores", lambda: 1)
    assert loader_workers(Hardware(GPU, "bf16")) == 1


def test_a_run_on_the_cpu_loads_nothing_for_a_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not plain_loader(Threads(), 2, workers=0).pin_memory
    assert plain_loader(Threads(), 2, workers=0, for_gpu=True).pin_memory


@pytest.mark.parametrize("before", [True, False])
def test_the_search_for_fast_convolutions_ends_with_the_training(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    for wanted in (True, False):
        with fastest_convolutions(wanted):
            assert torch.backends.cudnn.benchmark is wanted
        assert torch.backends.cudnn.benchmark is before
