"""Devices, threads and workers of a run, as far as a machine without a GPU can test them."""

import multiprocessing
import os
import signal
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

from cnr_iemn.stage1.data.datamodule import SliceDataModule, plain_loader
from cnr_iemn.stage1.training import distributed
from cnr_iemn.stage1.training.callbacks import AveragedWeights, EpochSeed
from cnr_iemn.stage1.training.distributed import loader_workers
from cnr_iemn.stage1.training.hardware import Hardware, cudnn_benchmark

GPU = torch.device("cuda")


class Threads(Dataset[dict[str, Tensor]]):
    """Its items tell how many threads OpenCV has."""

    def __init__(self, length: int = 2) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

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


def test_averaged_weights_are_on_the_network_s_device() -> None:
    module = pl.LightningModule()
    module.layer = torch.nn.Linear(2, 2)
    average = AveragedWeights(0.9, torch.device("meta"))
    average.setup(cast(pl.Trainer, SimpleNamespace()), module, "fit")
    assert {weight.device.type for weight in cast(Any, average)._average_model.parameters()} == {"meta"}


def averaged(decay: float, weights: list[float]) -> float:
    """Return the average of a weight that takes these values, one after each step."""
    module = pl.LightningModule()
    module.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = AveragedWeights(decay, torch.device("cpu"))
    average.setup(cast(pl.Trainer, SimpleNamespace()), module, "fit")
    for step, value in enumerate(weights):
        torch.nn.init.constant_(module.weight, value)
        trainer: Any = SimpleNamespace(global_step=step + 1)
        average.on_train_batch_end(trainer, module, None, None, step)
    return float(cast(Any, average)._average_model.module.weight.detach())


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("steps", [12, 148, 444])
def test_the_average_of_a_short_run_keeps_next_to_nothing_of_its_start(decay: float, steps: int) -> None:
    """0.999 from the first step on would keep 99, 86 and 64%."""
    assert averaged(decay, [1.0] + [0.0] * (steps - 1)) < 1e-4
    assert averaged(decay, [1.0] * (steps // 2) + [0.0] * (steps - steps // 2)) < 0.02


def test_a_long_run_is_averaged_with_the_configured_decay() -> None:
    for decay, steps in ((0.5, 8), (0.9, 80), (0.99, 890)):
        assert averaged(decay, [0.0] * (steps // 2) + [1.0]) > 1 - decay + 1e-6
        assert averaged(decay, [0.0] * steps + [1.0]) == pytest.approx(1 - decay)
        assert averaged(decay, [0.0] * (2 * steps) + [1.0] * 3) == pytest.approx(1 - decay**3)


def drawn(seed: int, epoch: int, rank: int) -> list[float]:
    torch.rand(epoch + 3)  # whatever was drawn before
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_batch_start(trainer, pl.LightningModule(), None, 0)
    return [float(value) for value in torch.rand(3)]


def test_random_numbers_of_an_epoch_depend_on_seed_epoch_and_process_only() -> None:
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
    for enabled in (True, False):
        with cudnn_benchmark(enabled):
            assert torch.backends.cudnn.benchmark is enabled
        assert torch.backends.cudnn.benchmark is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_job_is_left_to_the_first(number: signal.Signals) -> None:
    """scancel and timeout signal loading processes, too: one that died of it would end the training as a lost one."""
    others = set(multiprocessing.active_children())
    batches = iter(plain_loader(Threads(40), 2, workers=2))
    for _ in range(2):  # one of each worker: both have set their signals
        next(batches)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid or 0, number)
    assert len(list(batches)) == 18
    assert set(multiprocessing.active_children()) <= others
