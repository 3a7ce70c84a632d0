"""Logs of a training in W&B, TensorBoard and metrics.csv, read with their own readers, and terminal output."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.stage1.training.callbacks import NanGuard
from tests.pipeline import ROOT, TINY, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
EPOCHS = 2
NOT_LOGGED = {"schema_version"}


def words(tiny_study: Path, runs: Path, logger: str) -> list[str]:
    return [
        *TINY,
        "model=timm",
        "model.name=test_resnet",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.batch_size=16",
        "balancing.copies={Normal: 0, COVID-19: 0, CAP: 0}",
        "trainer.precision=32",
        f"ingest.cache={tiny_study / 'cache'}",
        f"runs={runs}",
        "study=tiny",
        f"logger={logger}",
    ]


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """The records of an offline run, by W&B's own reader of its files."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "WANDB_MODE": "offline"}
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


@pytest.fixture(scope="module")
def tracked(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any], str]]:
    """A W&B run of a sweep, stopped by Ctrl-C in its second epoch, then finished: folder, records, what it said."""
    folder = tmp_path_factory.mktemp("tracked")
    plain = NanGuard.on_train_batch_end

    def interrupt(self: NanGuard, trainer: Any, *rest: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        plain(self, trainer, *rest)

    command = ["-m", *words(tiny_study, folder, "wandb"), "logger.log_checkpoint=true", "logger.worst_slices=5"]
    with pytest.MonkeyPatch.context() as patch, (folder / "log.txt").open("w") as log:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("NETRC", str(folder / "no-netrc"))
        patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for so small a network more of them wait for each other
        with redirect_stdout(log):
            patch.setattr(NanGuard, "on_train_batch_end", interrupt)
            assert entry_point("train")(command) == 130
            patch.setattr(NanGuard, "on_train_batch_end", plain)
            assert entry_point("train")(command) == 0
        torch.set_num_threads(threads)
        assert "WANDB_DATA_DIR" not in os.environ
        run = folder / "tiny" / "test_resnet" / "seed0"
        starts = [wandb_records(path) for path in sorted(run.glob("wandb/offline-run-*"))]
    yield run, starts, (folder / "log.txt").read_text()
    shutil.rmtree(folder)


def test_an_interrupted_run_continues_its_wandb_run(tracked: tuple[Path, list[Any], str]) -> None:
    run, starts, _ = tracked
    assert [of_type(records, "exit")[0]["exit_code"] for records in starts] == [130, 0]
    folders = {path.name for path in run.parents[2].glob(".multirun/*")}
    for records in starts:
        (head,) = of_type(records, "run")
        assert head["run_id"] == json.loads((run / "run.json").read_text())["wandb_id"]
        assert head["resume"] is True
        assert (head["run_group"], head["job_type"], head["display_name"]) == ("tiny", "sweep", "test_resnet/seed0")
        assert head["notes"].startswith("phantom study")
        assert "test_resnet" in head["tags"]
        assert set(head["tags"]) & folders
        config = head["config"]["update"]
        assert config["trainer"]["learning_rate"] == 1e-4
        assert "precision 32" in config["hardware"]


def test_wandb_holds_the_rows_of_metrics_csv_by_epoch(tracked: tuple[Path, list[Any], str]) -> None:
    run, starts, _ = tracked
    items = [record["item"] for records in starts for record in of_type(records, "history")]
    rows = {item["epoch"]: item for item in items if "train/loss" in item}
    table = pd.read_csv(run / "metrics.csv").set_index("epoch")
    assert table.index.tolist() == sorted(rows) == list(range(EPOCHS))
    for side in ("train", "val"):
        names = ("loss", "class_loss", "region_loss", "slice_accuracy", "region_accuracy", "recall_COVID-19")
        assert {f"{side}/{name}" for name in names} <= set(table)
    assert {"learning_rate", "machine/slices_per_second", "machine/process_gib"} <= set(table)
    assert (np.diff(table["steps"], prepend=0) == table["steps"].iloc[0]).all()
    assert table["steps"].iloc[0] > 0
    assert (table["machine/slices_per_second"] > 0).all()
    assert table["machine/process_gib"].between(0.1, 100).all()
    for epoch, row in rows.items():
        for name in set(table) - NOT_LOGGED:
            assert row[name] == pytest.approx(table.loc[epoch, name], rel=1e-6), name
    metrics = {entry.get("glob_name") or entry["name"]: entry for r in starts for entry in of_type(r, "metric")}
    assert metrics["val/*"]["step_metric"] == "epoch"
    steps = [item for item in items if "step/loss" in item]
    assert len(steps) >= 1
    assert all({"step/learning_rate", "epoch", "trainer/global_step"} <= set(item) for item in steps)
    assert all(item["trainer/global_step"] % 10 == 0 for item in steps)


def test_the_confusion_matrix_of_each_epoch_is_that_of_the_recalls(tracked: tuple[Path, list[Any], str]) -> None:
    run, starts, _ = tracked
    table = pd.read_csv(run / "metrics.csv").set_index("epoch")
    epochs = set()
    for folder, records in zip(sorted(run.glob("wandb/offline-run-*")), starts, strict=True):
        for item in (record["item"] for record in of_type(records, "history")):
            path = item.get("val/confusion_matrix_table.path")
            if path is None:
                continue
            cells = json.loads((folder / "files" / path).read_text())["data"]
            right = sum(n for true, predicted, n in cells if true == predicted)
            assert right / sum(n for *_, n in cells) == pytest.approx(table.loc[item["epoch"], "val/slice_accuracy"])
            of_cap = {predicted: n for true, predicted, n in cells if true == "CAP"}
            recall = of_cap["CAP"] / sum(of_cap.values())
            assert recall == pytest.approx(table.loc[item["epoch"], "val/recall_CAP"])
            epochs.add(item["epoch"])
    assert epochs == set(range(EPOCHS))


def test_the_worst_slices_come_with_their_pictures(tracked: tuple[Path, list[Any], str]) -> None:
    run, starts, _ = tracked
    artifacts = {artifact["name"].split("-", 2)[-1]: artifact for artifact in of_type(starts[1], "artifact")}
    files = {entry["path"]: Path(entry["local_path"]) for entry in artifacts["worst_slices"]["manifest"]["contents"]}
    assert all(path.is_relative_to(run) for path in files.values())
    document = json.loads(files["worst_slices.table.json"].read_text())
    screen = pd.DataFrame(document["data"], columns=document["columns"])
    predictions = read_predictions(run / "predictions.parquet")
    rows = predictions.table[predictions.table["slice_label"].notna() & (predictions.table["split"] == "validation")]
    p_true = np.array([row[f"p_{row['slice_label']}"] for _, row in rows.iterrows()])
    assert screen["p_true"].tolist() == pytest.approx(np.sort(p_true)[:5].tolist())
    assert screen["class_loss"].is_monotonic_decreasing
    keys = rows.set_index(["scan_id", "slice_index"])
    for entry in screen.to_dict("records"):
        row = keys.loc[(entry["scan_id"], entry["slice_index"])]
        assert row["slice_label"] == entry["true_class"]
        assert row[f"p_{entry['predicted_class']}"] == pytest.approx(entry["p_predicted"])
        grey = cv2.imread(str(files[entry["picture"]["path"]]), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(files[entry["picture"]["masks"]["lungs"]["path"]]), cv2.IMREAD_UNCHANGED)
        assert grey.shape == mask.shape == (32, 32)
        assert set(np.unique(mask)) <= {0, 1}
        assert grey.max() > 1
    (checkpoint,) = [artifact for artifact in of_type(starts[1], "artifact") if artifact["type"] == "model"]
    assert Path(checkpoint["manifest"]["contents"][0]["local_path"]) == run / "checkpoints" / "best.ckpt"


def test_an_ensemble_logs_its_tables_and_figures_to_wandb(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    shutil.copytree(tiny_study / "runs" / "tiny" / "resnext50", tmp_path / "tiny" / "resnext50")
    command = [f"runs={tmp_path}", "study=tiny", "ensemble=resnext50", "permutations=0", "methods=false"]
    assert entry_point("aggregate")([*command, "logger=wandb", "robustness=true", "gpus=0"]) == 0
    folder = tmp_path / "tiny" / "ensembles" / "resnext50"
    (started,) = folder.glob("wandb/offline-run-*")
    records = wandb_records(started)
    (head,) = of_type(records, "run")
    assert (head["run_group"], head["job_type"], head["display_name"]) == ("tiny", "aggregate", "ensemble/resnext50")
    assert head["notes"].startswith("phantom study")
    metrics = json.loads((folder / "metrics.json").read_text())
    summary = {}
    for record in of_type(records, "summary"):
        summary.update(record["update"])
    assert summary["accuracy"] == metrics["accuracy"]
    assert summary["sensitivity/CAP"] == metrics["sensitivity"]["CAP"]
    (item,) = [record["item"] for record in of_type(records, "history")]
    drawn = {path.stem: path.read_text() for path in (folder / "figures").glob("*.svg")}
    for name, svg in drawn.items():
        assert (started / "files" / item[f"figure/{name}.path"]).read_text() == svg
    table = json.loads((started / "files" / item["table/Table_2_Scans.path"]).read_text())
    assert table["data"][0][0] == "ResNeXt-50 alone"
    assert table["data"][0][1].startswith(f"{100 * metrics['accuracy']:.2f} [")
    patients = pd.read_csv(folder / "patients.csv")
    held_out = patients[patients["split"] == "validation"]
    document = json.loads((started / "files" / item["table/validation_scans.path"]).read_text())
    scans = pd.DataFrame(document["data"], columns=document["columns"])
    probabilities = [f"p_{label}" for label in metrics["classes"]]
    assert scans.columns.tolist() == ["scan_id", "label", "predicted", "correct", *probabilities]  # and no patient
    assert scans["scan_id"].tolist() == held_out["scan_id"].tolist()
    np.testing.assert_allclose(scans[probabilities], held_out[probabilities], atol=1e-9)
    counts = json.loads((started / "files" / item["table/confusion_matrix.path"]).read_text())["data"]
    assert [[int(cell) for cell in row[1:4]] for row in counts] == metrics["confusion_matrix"]
    robustness = json.loads((started / "files" / item["table/Answers_for_perturbed_scans.path"]).read_text())
    assert [row[0] for row in robustness["data"]] == list(metrics["robustness"]["rows"])
    assert not list(started.rglob("*.jpg")) + list(started.rglob("report*"))


def test_a_log_file_has_one_line_an_epoch_and_no_control_characters(tracked: tuple[Path, list[Any], str]) -> None:
    *_, log = tracked
    lines = [line for line in log.splitlines() if line.startswith("[1/1] epoch ")]  # the only job of a multirun
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"\[1/1\] epoch {number}/{EPOCHS}  loss \d\.\d+, validation \d\.\d+; validation slices: accuracy [\d.]+%, "
            r"balanced [\d.]+%, recall Normal \d+%, COVID-19 \d+%, CAP \d+%  "
            r"\(\d+ s, \d+ slices/s, \d:\d\d:\d\d left\)",
            line,
        )
    assert len(lines) == EPOCHS
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", log)  # Hydra writes a tab


def test_a_terminal_shows_a_bar_and_tensorboard_holds_the_rows_of_metrics_csv(tiny_study: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    local, remote = pty.openpty()
    command = [sys.executable, str(ROOT / "train.py"), *words(tiny_study, tmp_path, "tensorboard")]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=remote, stderr=remote, cwd=ROOT, env=environment)
    os.close(remote)
    screen = b""
    while chunk := _read(local):
        screen += chunk
    assert process.wait() == 0, screen.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())
    bar = r"Epoch 2/2 \S+ +\d+ slices/s +\d:\d\d:\d\d left +loss: \d\.\d{3} +accuracy: \d\.\d{3}"
    assert re.search(bar, text), text
    assert "Predicting slices" in text

    run = tmp_path / "tiny" / "test_resnet" / "seed0"
    reader = accumulator.EventAccumulator(str(run / "tensorboard"))
    reader.Reload()
    table = pd.read_csv(run / "metrics.csv")
    for name in set(table) - NOT_LOGGED - {"epoch"}:
        events = reader.Scalars(name)
        assert [event.value for event in events] == pytest.approx(table[name].tolist(), rel=1e-6), name
    steps = [event.step for event in reader.Scalars("train/loss")]
    assert steps == [epoch * steps[0] for epoch in range(1, EPOCHS + 1)]
    assert steps[0] > 0
    assert reader.Scalars("step/loss")
    shutil.rmtree(run / "checkpoints")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so at the end
        return b""
