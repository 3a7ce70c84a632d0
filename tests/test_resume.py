"""An interrupted run, started again with the same command, ends as it would have: to the last digit in float32."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.errors import RunError, StoreError
from cnr_iemn.stage1.data.datamodule import SliceDataset
from cnr_iemn.stage1.training.checkpoints import resumable
from cnr_iemn.utils.atomic_io import exclusive
from tests.dropout import add_dropout
from tests.pipeline import ROOT, TINY, entry_point, measured_rows

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
EPOCHS = 3

# a process that has loaded all of train.py, and forks for each run that is to end itself: "batch 1 0 9" at the second
# epoch's first batch, by SIGKILL
WRAPPER = """
import json, os, signal, sys
import timm
import train
from cnr_iemn.stage1 import command
from cnr_iemn.stage1.training import callbacks, checkpoints, train_run
from tests.dropout import add_dropout

add_dropout()

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

def end_at(point, epoch, batch, number):
    def end():
        os.kill(os.getpid(), int(number))

    def before(owner, name, now):
        plain = getattr(owner, name)
        def wrapped(*args, **kwargs):
            if now(*args):
                end()
            return plain(*args, **kwargs)
        setattr(owner, name, wrapped)

    if point == "batch":
        before(callbacks.NanGuard, "on_train_batch_end",
               lambda self, trainer, module, outputs, data, k: (trainer.current_epoch, k) == (int(epoch), int(batch)))
    elif point == "before-checkpoint":
        before(checkpoints.LastCheckpoint, "on_train_epoch_end",
               lambda self, trainer, module: trainer.current_epoch == int(epoch))
    elif point == "between-renames":
        plain = os.replace
        def replace(a, b):
            if os.path.basename(b) == "last.ckpt" and not os.path.exists(b):
                end()
            plain(a, b)
        checkpoints.os = type("os", (), {"replace": staticmethod(replace)})
    elif point == "before-predictions":
        before(train_run.TrainRun, "_predict_cohort", lambda *args: True)

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        end_at(*request["point"].split())
        raise SystemExit(train.main(request["words"]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A run of train.py that has ended."""

    code: int
    stdout: str
    stderr: str


class Runs:
    """Runs of train.py, each in a process of its own that loads nothing: the torch of all is loaded once."""

    def __init__(self, folder: Path) -> None:
        self._texts = {name: folder / f"{name}.txt" for name in ("stdout", "stderr")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRAPPER],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train_until(self, point: str, words: Sequence[str]) -> Ended:
        """Train until the point, where the run ends itself."""
        request = {"point": point, "words": list(words), **{name: str(path) for name, path in self._texts.items()}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, *(path.read_text() for path in self._texts.values()))

    def close(self) -> None:
        """End the process, which reads its last line."""
        self._process.communicate(timeout=60)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.close()


def words(folder: Path, name: str) -> list[str]:
    """The command of one run, of a small network."""
    return [
        *TINY,
        "model=timm",
        "model.name=test_resnet",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.schedule=steps",
        "trainer.milestones=[1, 2]",
        "trainer.precision=32",
        "trainer.batch_size=24",
        f"ingest.cache={folder / 'cache'}",
        f"runs={folder / name}",
        "study=tiny",
        "trainer.keep_last=true",
    ]


def run_folder(folder: Path, name: str) -> Path:
    return folder / name / "tiny" / "test_resnet" / "seed0"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        add_dropout(patch.setattr)
        assert entry_point("train")(words(folder, "whole")) == 0
    return folder


def test_killed_anywhere_a_run_ends_as_it_would_have(undisturbed: Path, runs: Runs) -> None:
    name = "killed"
    for point, code in (
        ("batch 0 1 9", -9),  # nothing is kept yet
        ("batch 1 0 2", 130),  # Ctrl-C in the second epoch
        ("batch 1 0 15", 143),  # what a scheduler sends
        ("before-checkpoint 1 0 9", -9),  # metrics.csv has a row that the checkpoint does not know
        ("between-renames 1 0 9", -9),  # last.ckpt has just become previous.ckpt
        ("batch 2 1 9", -9),
        ("before-predictions 0 0 9", -9),
    ):
        ended = runs.train_until(point, words(undisturbed, name))
        assert ended.code == code, f"{point}: {ended.stderr}"
        run = run_folder(undisturbed, name)
        if code > 0:
            assert "the same command goes on after its last" in ended.stdout
            assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
        (undisturbed / name).rename(undisturbed / f"{name}.")  # the runs' folder lies elsewhere each time
        name = f"{name}."
    run = run_folder(undisturbed, name)
    # the newest checkpoint loses a byte: the one before it counts
    content = bytearray((run / "checkpoints" / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "checkpoints" / "last.ckpt").write_bytes(content)
    ended = runs.train_until("never 0 0 0", words(undisturbed, name))
    assert ended.code == 0, ended.stderr
    assert "last.ckpt is damaged (wrong checksum of" in ended.stderr

    whole = run_folder(undisturbed, "whole")
    assert json.loads((run / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    tables = [measured_rows(path) for path in (run, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["epoch"].tolist() == list(range(EPOCHS))
    assert tables[0]["learning_rate"].tolist() == pytest.approx([1e-4, 1e-5, 1e-6])
    pd.testing.assert_frame_equal(
        *(read_predictions(path / "predictions.parquet").table for path in (run, whole)), check_exact=True
    )
    states = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for path in (run, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], len(record["resumed"])) == ("finished", 7)


def test_checkpoints_of_another_run_are_refused(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Put in after the training, before the prediction, where nothing else of the run would show it."""
    shutil.copytree(undisturbed / "whole", undisturbed / "swapped")
    run = run_folder(undisturbed, "swapped")
    record, best = json.loads((run / "run.json").read_text()), run / "checkpoints" / "best.ckpt"
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    content = best.read_bytes()
    state = torch.load(best, weights_only=True)["state_dict"]
    torch.save({"state_dict": {name: value + 1 for name, value in state.items()}}, best)
    assert entry_point("train")(words(undisturbed, "swapped")) == 2
    assert "best.ckpt is not the file that the run has written" in capfd.readouterr().err
    best.write_bytes(content)
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted", "run_id": "other"}))
    assert entry_point("train")(words(undisturbed, "swapped")) == 2
    assert "last.ckpt is a checkpoint of another run" in capfd.readouterr().err
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    assert entry_point("train")(words(undisturbed, "swapped")) == 0


def test_an_interrupted_run_can_be_refused(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = words(undisturbed, "refused")
    run = run_folder(undisturbed, "refused")
    assert entry_point("train")([*command, "trainer.learning_rate=1e30", "trainer.milestones=[8]"]) == 2
    printed = capfd.readouterr()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert "training has diverged. Lower trainer.learning_rate" in printed.err
    assert "the same command goes on after its last" in printed.out
    slices = printed.err.split("slice indices): ")[1].split(". What was")[0]
    split = pd.read_csv(undisturbed / "refused" / "tiny" / "split.csv").set_index("scan_id")["split"]
    for entry in slices.split("; "):
        scan_id, numbers = entry.split(": ")
        assert split[scan_id] == "training"
        assert all(0 <= int(k) < 21 for k in numbers.split(", "))

    assert entry_point("train")(command) == 2
    assert (
        "was begun and interrupted with another configuration: trainer.learning_rate was 1e+30"
        in capfd.readouterr().err
    )
    again = [*command, "trainer.learning_rate=1e30", "trainer.milestones=[8]", "resume=never"]
    assert entry_point("train")(again) == 2
    assert "resume=auto goes on with it" in capfd.readouterr().err


def test_two_processes_do_not_train_one_run(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock = undisturbed / "taken" / "tiny" / "test_resnet" / ".seed0.lock"
    with exclusive(lock, pytest.fail):
        assert entry_point("train")(words(undisturbed, "taken")) == 2
    assert "Another process is training" in capfd.readouterr().err
    assert not run_folder(undisturbed, "taken").exists()


@pytest.mark.parametrize("printed", [None, "FIND was unable to find an engine to execute this computation"])
def test_memory_that_does_not_hold_a_batch_names_what_to_lower(
    printed: str | None, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def too_large(*_: object) -> None:
        if printed is not None:
            raise RuntimeError(printed)  # cuDNN's, on a GPU
        torch.empty(2**60, dtype=torch.uint8)  # the allocator's own error

    monkeypatch.setattr("cnr_iemn.stage1.training.lightning_module.focal_loss", lambda *_, **__: too_large())
    assert entry_point("train")(words(undisturbed, "large")) == 2
    assert (
        "Raise trainer.accumulate, now 1: the same batch in more parts. Or lower trainer.batch_size, now 24, or"
        in capfd.readouterr().err
    )


def test_a_lost_loading_process_is_told_with_what_helps(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SliceDataset, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGBUS))
    assert entry_point("train")([*words(undisturbed, "lost"), "trainer.workers=1"]) == 2
    printed = capfd.readouterr().err
    assert "A process that loads data was lost (DataLoader worker" in printed
    assert "lower trainer.workers, now 1" in printed
    assert "Traceback" not in printed


def test_an_error_in_a_loading_process_is_told_in_its_own_words(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def damaged(*_: object) -> None:
        raise StoreError("grey.npy is cut.\nDelete it.")

    monkeypatch.setattr(SliceDataset, "__getitem__", damaged)
    assert entry_point("train")([*words(undisturbed, "damaged"), "trainer.workers=1"]) == 2
    printed = capfd.readouterr().err
    assert "Error: grey.npy is cut.\nDelete it.\n" in printed
    assert "Traceback" not in printed


def test_cut_and_changed_checkpoints_are_set_aside(tmp_path: Path) -> None:
    weights = {"weights": torch.arange(1000)}
    held = {"state_dict": {"network.weights": weights["weights"]}, "epoch": 0, "global_step": 1, "loops": {}}
    held |= {
        "optimizer_states": [],
        "lr_schedulers": [],
        "callbacks": {"MetricsCsv": {"rows": []}, "LastCheckpoint": {"run_id": "run"}},
    }
    torch.save(held, tmp_path / "previous.ckpt")
    content = (tmp_path / "previous.ckpt").read_bytes()
    at = content.find(np.arange(100).tobytes()) + 80  # within the numbers
    changed = content[:at] + b"\xff" + content[at + 1 :]
    for damaged in (content[:-40], content[: len(content) // 2], b"", changed):
        (tmp_path / "last.ckpt").write_bytes(damaged)
        assert resumable(tmp_path, weights, "run") == tmp_path / "previous.ckpt"
        assert (tmp_path / "last.ckpt.damaged").read_bytes() == damaged
        assert not (tmp_path / "last.ckpt").exists()
    (tmp_path / "last.ckpt").write_bytes(content)
    assert resumable(tmp_path, weights, "run") == tmp_path / "last.ckpt"
    assert np.array_equal(
        torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["network.weights"], np.arange(1000)
    )
    assert resumable(tmp_path / "none", weights, "run") is None


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    torch.save({"weights": torch.arange(10)}, tmp_path / "last.ckpt")
    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(RunError, match=r"last\.ckpt cannot be read \(Input/output error\).*Check the disk"):
        resumable(tmp_path, {}, "run")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
