"""What only a GPU can show. CI has none: run ``pytest tests/stage1/test_gpu.py`` on a machine with one."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cnr_iemn.constants import BACKBONES
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.inference.explanation import ensemble_maps
from cnr_iemn.inference.input_checks import prepare_new_scan
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import load_study_ensemble
from tests.pipeline import QUICK, ROOT, TINY, entry_point, stop_after_an_epoch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]
CPU, ONE_EPOCH = "trainer.gpus=0", "trainer.max_epochs=1"
WORDS = [*(word for word in TINY if word not in (CPU, ONE_EPOCH)), "model.image_size=75", "study=gpu"]
SAME_BITS = ["trainer.deterministic=true", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache/ and runs/gpu: the four backbones, trained on what is taken unasked, and aggregated."""
    path = tmp_path_factory.mktemp("gpu")
    assert entry_point("train")(["-m", *words(path), *SAME_BITS, f"model={','.join(BACKBONES)}"]) == 0
    assert entry_point("aggregate")([f"runs={path / 'runs'}", "study=gpu", "ensemble=all", *QUICK]) == 0
    return path


def words(path: Path) -> list[str]:
    return [*WORDS, f"ingest.cache={path / 'cache'}", f"runs={path / 'runs'}"]


def predictions(path: Path, model: str, tag: str = "seed0") -> pd.DataFrame:
    return read_predictions(path / "runs" / "gpu" / model / tag / "predictions.parquet").table


def measured(path: Path, model: str, tag: str) -> pd.DataFrame:
    table = pd.read_csv(path / "runs" / "gpu" / model / tag / "metrics.csv")
    return table[[name for name in table if name.startswith(("train/", "val/"))]]


def test_the_gpu_is_the_default_and_its_memory_is_recorded(folder: Path) -> None:
    for model in BACKBONES:
        run = folder / "runs" / "gpu" / model / "seed0"
        metrics = pd.read_csv(run / "metrics.csv").iloc[-1]
        assert 0.05 < metrics["machine/gpu_peak_gib"] < 40
        assert np.isfinite(metrics["train/loss"])
        record = json.loads((run / "run.json").read_text())
        assert torch.cuda.get_device_name() in json.dumps(record)


@pytest.mark.parametrize("model", ["densenet161", "inception_v3"])  # the latter has dropout
def test_a_deterministic_run_resumes_to_the_same_bits(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*words(folder), *SAME_BITS, f"model={model}", "trainer.gpus=1", "tag=cut"]
    with monkeypatch.context() as patched:
        stop_after_an_epoch(patched)
        assert entry_point("train")(command) == 130
    assert entry_point("train")(command) == 0
    for read in (measured, predictions):
        pd.testing.assert_frame_equal(read(folder, model, "seed0"), read(folder, model, "cut"), check_exact=True)


def test_weight_averaging_clipping_and_gradient_accumulation_work_on_the_gpu(folder: Path) -> None:
    options = [ONE_EPOCH, "trainer.ema=0.9", "trainer.clip=0.5", "trainer.accumulate=2", "tag=options"]
    options.append("trainer.keep_last=true")
    assert entry_point("train")([*words(folder), "model=resnext50", "trainer.gpus=1", *options]) == 0
    assert np.isfinite(measured(folder, "resnext50", "options")).all(axis=None)
    state = torch.load(folder / "runs/gpu/resnext50/options/checkpoints/last.ckpt", weights_only=True)
    name = "network.class_head.weight"
    assert not torch.equal(
        state["state_dict"][name], state["current_model_state"][name]
    )  # the average, and what trains


def test_torchrun_starts_a_process_for_the_gpu(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", f"--master-port={port}"]
    command = [*starter, "train.py", *words(folder), "model=resnext50", "trainer.gpus=1", ONE_EPOCH, "tag=torchrun"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(predictions(folder, "resnext50", "torchrun")) == len(predictions(folder, "resnext50"))


def test_a_new_scan_is_predicted_as_on_the_cpu_with_pages_and_from_a_bundle(folder: Path) -> None:
    """The four networks in bf16 on the GPU, and in bf16 or float32 on the CPU."""
    study = [f"runs={folder / 'runs'}", "study=gpu"]
    assert entry_point("export")([*study, f"output={folder / 'bundle'}", "onnx=false"]) == 0
    (scan,) = folder.glob("cache/phantom-*/Normal subjects/normal001")
    message = {}
    for name, command in {
        "gpu": [*study, "gpus=1"],
        "cpu": [*study, "gpus=0", "engine=torch", "pages=false"],
        "bundle": [f"bundle={folder / 'bundle'}", "gpus=1", "pages=false"],
    }.items():
        output = folder / name
        assert entry_point("predict")([*command, f"input={scan}", f"output={output}"]) == 0
        message[name] = pd.read_csv(output / "slices.csv")
    values = message["gpu"].select_dtypes("number").columns
    off = np.abs(message["gpu"][values] - message["cpu"][values]).max().max()
    assert off < 0.05
    assert off < np.ptp(message["cpu"]["p_Normal"]) / 2  # as far as another slice is
    pd.testing.assert_frame_equal(message["gpu"], message["bundle"], check_exact=True)
    assert list((folder / "gpu").glob("*.html"))


def test_float32_and_grad_cam_are_those_of_the_cpu(folder: Path) -> None:
    (scan,) = folder.glob("cache/phantom-*/Normal subjects/normal001")
    study = load_study_ensemble(folder / "runs", "gpu", "all")
    exact = tuple(replace(member, precision="32") for member in study.ensemble.members)
    prepared = prepare_new_scan(study.ensemble.pixels, False, ("normal001", scan))
    printed, maps = [], []
    for gpus in (1, 0):
        networks = EnsembleNetworks(
            study.folder, replace(study.ensemble, members=exact), choose_hardware(gpus, "32"), batch_size=16
        )
        printed.append(networks.predict_scan(prepared))
        maps.append(ensemble_maps(networks, prepared, [5, 12], target=0, side=75))
    np.testing.assert_allclose(*printed, atol=1e-4)
    assert np.ptp(printed[0], axis=1).max() > 1e-3
    assert maps[0].max() > 0
    np.testing.assert_allclose(*maps, atol=0.02)


def test_a_batch_that_exceeds_the_gpu_s_memory_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        large = ["model=densenet161", "model.image_size=512", "trainer.gpus=1", ONE_EPOCH, "tag=large"]
        assert entry_point("train")([*words(folder), *large]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "The memory does not hold a batch" in capsys.readouterr().err
