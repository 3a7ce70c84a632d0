"""Two processes train, validate and predict as one does. A frozen layer replaces SyncBatchNorm, which needs GPUs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from cnr_iemn.config.schema.settings import TrainerSettings, TrainSettings
from cnr_iemn.config.signals import termination
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.errors import ConfigurationError, Termination, TrainingError
from cnr_iemn.stage1.training.distributed import RankShard, claim_rank, first_process, launch_ranks, launched_externally
from cnr_iemn.stage1.training.hardware import Hardware
from tests.pipeline import ROOT, SMALL, TINY, entry_point
from tests.stage1.distributed_step import N, begin, step, train_step

pytestmark = pytest.mark.slow

RUN = Path("two") / "test_resnet" / "seed0"


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], pd.Series]:
    folder = tmp_path_factory.mktemp("step") / "alone"
    return step(folder), pd.read_csv(folder / "study/resnext50/seed0/metrics.csv").iloc[0]


@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")  # the frozen ones
@pytest.mark.parametrize("settings", [{"cpu_processes": 2}, {"accumulate": 3}], ids=str)
def test_a_step_has_the_gradients_of_one_process(
    settings: dict[str, int], single_process: tuple[dict[str, torch.Tensor], pd.Series], tmp_path: Path
) -> None:
    gradients, metrics = single_process
    threads = torch.get_num_threads()
    gradients_of_ranks = step(tmp_path / "cut", **settings)
    assert torch.get_num_threads() == threads  # the first process has its own again
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients_of_ranks[name], gradient, rtol=1e-4, atol=1e-4 * scale, msg=name)
    measured = pd.read_csv(tmp_path / "cut/study/resnext50/seed0/metrics.csv").iloc[0]
    for key in [key for key in metrics.index if key.startswith("train/")]:
        assert measured[key] == pytest.approx(metrics[key], rel=1e-5), key


@pytest.fixture(scope="module")
def two_words(tiny_study: Path) -> list[str]:
    """Words of train.py for a run of two processes, which cannot share a batch equally."""
    pytest.importorskip("timm")
    words = [*TINY, *SMALL, f"ingest.cache={tiny_study / 'cache'}", "study=two", "trainer.keep_last=true"]
    return [*words, "trainer.precision=32", "trainer.batch_size=23", "trainer.max_epochs=2", "trainer.ema=0.5"]


@pytest.fixture(scope="module")
def of_two(two_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose two processes train.py has started. Not to be changed."""
    runs = tmp_path_factory.mktemp("of_two")
    assert entry_point("train")([*two_words, f"runs={runs}", "trainer.cpu_processes=2"]) == 0
    return runs / RUN


def test_two_processes_predict_what_one_does(of_two: Path, two_words: list[str], tmp_path: Path) -> None:
    """Their run is taken up again by one process, which finds only the prediction left to do."""
    shutil.copytree(of_two.parents[2], tmp_path, dirs_exist_ok=True)
    run = tmp_path / RUN
    before = read_predictions(run / "predictions.parquet").table
    assert not before.duplicated(["scan_id", "slice_index"]).any()
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"interrupted"'))
    assert entry_point("train")([*two_words, f"runs={tmp_path}"]) == 0
    of_one = read_predictions(run / "predictions.parquet").table
    figures = [name for name in of_one if name.startswith(("p_", "region_"))]
    pd.testing.assert_frame_equal(of_one.drop(columns=figures), before.drop(columns=figures))
    np.testing.assert_allclose(of_one[figures], before[figures], rtol=0, atol=1e-6)
    validated = pd.read_csv(run / "metrics.csv")["val/slice_accuracy"].max()  # the best epoch's network is kept
    labelled = of_one[of_one["split"].eq("validation") & of_one["slice_label"].notna()]
    columns = [name for name in of_one if name.startswith("p_")]
    right = (
        labelled[columns].to_numpy().argmax(axis=1)
        == pd.Categorical(labelled["slice_label"], [name.removeprefix("p_") for name in columns]).codes
    )
    assert validated == pytest.approx(right.mean())  # each validation slice counted once


def test_torchrun_starts_the_processes_that_train_py_starts_otherwise(
    of_two: Path, two_words: list[str], tmp_path: Path
) -> None:
    def torchrun() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
        command += [*two_words, "trainer.cpu_processes=2", f"runs={tmp_path}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)

    other = tmp_path / RUN
    for damaged in (False, True):
        if damaged:  # both go on from the checkpoint before, which the first process finds
            (other / "run.json").write_text((other / "run.json").read_text().replace('"finished"', '"interrupted"'))
            (other / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
        ended = torchrun()
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("epoch 2/2") == 1  # one of them talks
        tables = [read_predictions(path / "predictions.parquet").table for path in (of_two, other)]
        pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-6)
    ended = torchrun()
    assert (ended.returncode, ended.stdout.count("nothing to do")) == (0, 1), ended.stderr


SRUN = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "seeds", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
TASK = {**SRUN, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture
def stray(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Set variables of a rank, and Lightning's rank as it is where they are set before its import."""
    for name in (*TASK, "SLURM_NTASKS_PER_NODE", *TORCHRUN, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def call(environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(rank_zero_only, "rank", 3)

    return call


@pytest.mark.parametrize(
    ("processes", "environment", "rank"),
    [
        (1, TASK, 0),  # srun -n 2 train.py seed=$SLURM_PROCID
        (1, {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4", "JSM_NAMESPACE_RANK": "2", "PMI_RANK": "2"}, 0),
        (1, {**TORCHRUN, "WORLD_SIZE": "2"}, 0),
        (2, {"RANK": "2", "LOCAL_RANK": "2"}, 0),  # it starts the other one itself
        (2, {**SRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, 0),  # a batch script with two tasks, without srun
        (2, {**TASK, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, 0),  # each task starts another
        (2, {**TORCHRUN, "WORLD_SIZE": "4"}, 0),
        (2, {**TASK, "SLURM_NTASKS_PER_NODE": "2"}, 1),
        (2, {**TORCHRUN, "WORLD_SIZE": "2"}, 1),
    ],
)
def test_a_rank_counts_where_the_runs_processes_are_started_from_outside(
    processes: int, environment: dict[str, str], rank: int, stray: Callable[[dict[str, str]], None]
) -> None:
    stray(environment)
    assert claim_rank(Hardware(torch.device("cpu"), "32", processes=processes)) == rank
    assert first_process() == (rank == 0)


@pytest.mark.parametrize(
    "environment",
    [
        {**TASK, "SLURM_STEP_NUM_TASKS": "two"},
        TORCHRUN,  # no WORLD_SIZE
        {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"},  # no RANK
        {**TORCHRUN, "WORLD_SIZE": "2", "RANK": "first"},
    ],
)
def test_a_rank_without_a_number_of_processes_counts_only_with_several(
    environment: dict[str, str], stray: Callable[[dict[str, str]], None]
) -> None:
    stray(environment)
    assert claim_rank(Hardware(torch.device("cpu"), "32")) == 0
    with pytest.raises(ConfigurationError, match=r"does not describe this run's processes .*unset the variables"):
        claim_rank(Hardware(torch.device("cpu"), "32", processes=2))


def test_srun_with_missing_variables_is_refused(stray: Callable[[dict[str, str]], None]) -> None:
    stray(TASK)
    with pytest.raises(ConfigurationError, match="Add --ntasks-per-node="):
        claim_rank(Hardware(torch.device("cpu"), "32", processes=2))


def test_a_run_of_one_process_writes_all_its_files_whatever_rank_the_environment_names(
    tiny_study: Path, tmp_path: Path, stray: Callable[[dict[str, str]], None], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    words = [*TINY, *SMALL, "logger=tensorboard", "study=task", f"runs={tmp_path}"]
    words += [f"ingest.cache={tiny_study / 'cache'}", "trainer.workers=0"]
    stray({**TASK, "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"})
    assert entry_point("train")(words) == 0
    assert "epoch 1/1" in capfd.readouterr().out
    run = tmp_path / "task" / "test_resnet" / "seed0"
    names = {path.name for path in run.rglob("*")}
    assert {"run.json", "config.yaml", "metrics.csv", "metrics.json", "predictions.parquet", "best.ckpt"} <= names
    assert list((run / "tensorboard").glob("events.*"))
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def two_runs(settings: TrainSettings) -> float:
    """Train another run in the process of rank 1."""
    return train_step(settings, tag=f"seed{os.environ['RANK']}")


def test_processes_with_different_runs_are_refused_in_all_of_them(tmp_path: Path) -> None:
    whole = begin(tmp_path, TrainerSettings(max_epochs=1, batch_size=N, cpu_processes=2))
    with pytest.raises(
        ConfigurationError, match=r"train one run together.*beside study/resnext50/seed0.*trainer.gpus=1"
    ):
        launch_ranks(two_runs, whole, Hardware(torch.device("cpu"), "32", processes=2))


def lose_rank_1(settings: TrainSettings) -> float:
    """Die in the process of rank 1, for which rank 0 waits without end."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return 0.0


def test_a_lost_process_ends_the_run() -> None:
    hardware = Hardware(torch.device("cpu"), "32", processes=2)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingError, match="A process of this run ended with code -9"):
        launch_ranks(lose_rank_1, TrainSettings(), hardware)
    assert not active_children()
    assert "LOCAL_RANK" not in os.environ
    assert before.items() <= os.environ.items()
    assert signal.getsignal(signal.SIGTERM) == handler


def await_signal(settings: TrainSettings) -> float:
    """Have rank 0 signal the launcher, as a scheduler does, and leave a file when this process is told to end."""
    folder, rank = Path(settings.runs), os.environ["RANK"]
    try:
        (folder / f"started{rank}").touch()
        while rank == "0" and not (folder / "started1").exists():
            time.sleep(0.1)
        if rank == "0":
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(600)
    except Termination:
        (folder / f"ended{rank}").touch()
        raise
    return 0.0


def test_a_signal_to_the_launcher_ends_all_processes_in_order(tmp_path: Path) -> None:
    settings = TrainSettings(runs=str(tmp_path))
    with pytest.raises(Termination) as ended, termination():
        launch_ranks(await_signal, settings, Hardware(torch.device("cpu"), "32", processes=2))
    assert ended.value.exit_code == 143
    assert {path.name for path in tmp_path.glob("ended*")} == {"ended0", "ended1"}
    assert not active_children()


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_shares_are_every_row_once(n: int) -> None:
    rows = [row for rank in range(3) for row in RankShard(rank, 3).indices(n)]
    assert rows == list(range(n))


def test_other_nodes_are_not_started_from_here() -> None:
    with pytest.raises(ConfigurationError, match="srun"):
        launched_externally(Hardware(torch.device("cpu"), "32", processes=4, nodes=2))
