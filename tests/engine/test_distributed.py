"""Two processes train, validate and predict as one does. SyncBatchNorm needs GPUs: its place takes a frozen one."""

import os
import subprocess
import sys
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cnr_iemn.engine.distributed import Share, other_processes
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.errors import ConfigurationError, TrainingError
from cnr_iemn.patients.predictions import read_predictions
from cnr_iemn.settings.schema import TrainSettings
from tests.engine.distributed_step import step
from tests.pipeline import ROOT, TINY, entry_point


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], pd.Series]:
    folder = tmp_path_factory.mktemp("step") / "alone"
    return step(folder), pd.read_csv(folder / "study/resnext50/seed0/metrics.csv").iloc[0]


@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")  # the frozen ones
@pytest.mark.parametrize("settings", [{"cpu_processes": 2}, {"accumulate": 3}], ids=str)
def test_a_step_has_the_gradients_of_one_process(
    settings: dict[str, int], alone: tuple[dict[str, torch.Tensor], pd.Series], tmp_path: Path
) -> None:
    gradients, metrics = alone
    found = step(tmp_path / "cut", **settings)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale, msg=name)
    measured = pd.read_csv(tmp_path / "cut/study/resnext50/seed0/metrics.csv").iloc[0]
    for key in [key for key in metrics.index if key.startswith("train/")]:
        assert measured[key] == pytest.approx(metrics[key], rel=1e-5), key


def test_two_processes_predict_what_one_does(tiny_study: Path, tmp_path: Path) -> None:
    """A run of two processes, taken up again by one that finds only the prediction left to do."""
    words = [
        *TINY,
        "model=resnext50",
        "trainer.precision=32",
        "trainer.batch_size=23",
        f"ingest.cache={tiny_study / 'cache'}",
        f"runs={tmp_path}",
        "study=two",
    ]
    train = entry_point("train")
    assert train([*words, "trainer.cpu_processes=2"]) == 0
    run = tmp_path / "two" / "resnext50" / "seed0"
    two = read_predictions(run / "predictions.parquet").table
    assert not two.duplicated(["scan_id", "slice_index"]).any()
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"interrupted"'))
    assert train(words) == 0
    one = read_predictions(run / "predictions.parquet").table
    figures = [name for name in one if name.startswith(("p_", "region_"))]
    pd.testing.assert_frame_equal(one.drop(columns=figures), two.drop(columns=figures))
    np.testing.assert_allclose(one[figures], two[figures], rtol=0, atol=1e-6)
    validated = pd.read_csv(run / "metrics.csv").iloc[-1]["val/slice_accuracy"]
    labelled = one[one["split"].eq("validation") & one["slice_label"].notna()]
    columns = [name for name in one if name.startswith("p_")]
    right = (
        labelled[columns].to_numpy().argmax(axis=1)
        == pd.Categorical(labelled["slice_label"], [name.removeprefix("p_") for name in columns]).codes
    )
    assert validated == pytest.approx(right.mean())  # each validation slice counted once


def test_torchrun_starts_what_train_py_else_starts_itself(tiny_study: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    words = [
        *TINY,
        "model=timm",
        "model.name=test_resnet",
        "trainer.precision=32",
        "trainer.cpu_processes=2",
        "trainer.max_epochs=2",
        "trainer.ema=0.5",
        f"ingest.cache={tiny_study / 'cache'}",
        "study=two",
    ]
    assert entry_point("train")([*words, f"runs={tmp_path / 'own'}"]) == 0

    def torchrun() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
        command += [*words, f"runs={tmp_path / 'other'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)

    own, other = (tmp_path / name / "two" / "test_resnet" / "seed0" for name in ("own", "other"))
    for damaged in (False, True):
        if damaged:  # both go on from the checkpoint before, which the first process finds
            (other / "run.json").write_text((other / "run.json").read_text().replace('"finished"', '"interrupted"'))
            (other / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
        ended = torchrun()
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("epoch 2/2") == 1  # one of them talks
        tables = [read_predictions(path / "predictions.parquet").table for path in (own, other)]
        pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-6)
    ended = torchrun()
    assert (ended.returncode, ended.stdout.count("nothing to do")) == (0, 1), ended.stderr


def fail(settings: TrainSettings) -> None:
    raise RuntimeError("this process has lost its GPU")


def test_a_lost_process_ends_the_run() -> None:
    def first_process() -> None:
        (other,) = active_children()
        wait([other.sentinel])
        raise RuntimeError("Connection closed by peer")  # what gloo raises then

    hardware = Hardware(torch.device("cpu"), "32", processes=2)
    with (
        pytest.raises(TrainingError, match="A process of this run ended with code 1"),
        other_processes(fail, TrainSettings(), hardware),
    ):
        first_process()
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")
def test_the_threads_of_the_first_process_are_its_own_again(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    step(tmp_path / "two", cpu_processes=2)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_shares_are_every_row_once(n: int) -> None:
    rows = [row for rank in range(3) for row in Share(rank, 3).rows(n)]
    assert rows == list(range(n))


def test_other_nodes_are_not_started_from_here() -> None:
    hardware = Hardware(torch.device("cpu"), "32", processes=4, nodes=2)
    with (
        pytest.raises(ConfigurationError, match="srun"),
        other_processes(fail, TrainSettings(), hardware),
    ):
        pass
