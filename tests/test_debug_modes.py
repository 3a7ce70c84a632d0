"""The debug modes of train.py: what each runs and keeps, and that none of it counts."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnr_iemn.stage1.training import trainer
from tests.pipeline import SMALL, TINY, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
MODEL = "test_resnet"
FILES = {"config.yaml", "metrics.csv", "run.json"}
"""What every debug run leaves."""


@pytest.fixture
def words(tiny_study: Path, tmp_path: Path) -> list[str]:
    return [*TINY, *SMALL, "study=debug", f"ingest.cache={tiny_study / 'cache'}", f"runs={tmp_path}"]


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The Trainers that were made."""
    made: list[Any] = []
    plain = trainer.pl.Trainer

    def watched(**arguments: Any) -> Any:
        made.append(plain(**arguments))
        return made[-1]

    monkeypatch.setattr(trainer.pl, "Trainer", watched)
    return made


def left_in(runs: Path, tag: str) -> set[str]:
    run = runs / "debug" / MODEL / tag
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def record_of(runs: Path, tag: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((runs / "debug" / MODEL / tag / "run.json").read_text())
    return record


def test_fast_runs_one_batch_of_each_loop_and_counts_nowhere(
    words: list[str], tmp_path: Path, trainers: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    train = entry_point("train")
    for _ in range(2):  # a second one replaces the first
        assert train([*words, "debug=fast", "trainer.max_epochs=5"]) == 0
    for made in trainers:
        assert (made.global_step, made.num_training_batches, made.num_val_batches) == (1, 1, [1])
    assert left_in(tmp_path, "debug-fast") == FILES
    assert not (tmp_path / "debug" / "split.csv").exists()
    assert (record_of(tmp_path, "debug-fast")["debug"], record_of(tmp_path, "debug-fast")["status"]) == (
        "fast",
        "finished",
    )
    assert len(pd.read_csv(tmp_path / "debug" / MODEL / "debug-fast" / "metrics.csv")) == 1
    capsys.readouterr()
    assert entry_point("aggregate")([f"runs={tmp_path}", "study=debug", f"ensemble={MODEL}", "tag=debug-fast"]) == 2
    error = capsys.readouterr().err
    assert f"{MODEL}'s run debug-fast is a debug run (fast), which predicts nothing" in error


def test_overfit_trains_on_the_same_batches_until_the_loss_is_small(
    words: list[str], tmp_path: Path, trainers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    plain = trainer.NanGuard.on_train_batch_end

    def watched(self: Any, made: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        seen.append(tuple(batch["slice"].tolist()))
        plain(self, made, module, outputs, batch, batch_idx)

    monkeypatch.setattr(trainer.NanGuard, "on_train_batch_end", watched)
    command = [
        *words,
        "debug=overfit",
        "debug.overfit_batches=2",
        "trainer.learning_rate=0.001",
        "trainer.max_epochs=30",
    ]
    assert entry_point("train")(command) == 0
    assert len(seen) == 60
    assert len(set(seen)) == 2
    assert left_in(tmp_path, "debug-overfit") == FILES
    losses = pd.read_csv(tmp_path / "debug" / MODEL / "debug-overfit" / "metrics.csv")["train/loss"]
    assert losses.iloc[-1] < 0.2 * losses.iloc[0]


def test_profile_keeps_the_report_of_lightnings_profiler(words: list[str], tmp_path: Path, trainers: list[Any]) -> None:
    assert entry_point("train")([*words, "debug=profile", "trainer.warmup_epochs=0"]) == 0
    assert trainers[0].max_epochs == 1
    assert left_in(tmp_path, "debug-profile") == FILES | {"fit-profile.txt"}
    report = (tmp_path / "debug" / MODEL / "debug-profile" / "fit-profile.txt").read_text()
    assert "run_training_batch" in report


def test_a_debug_run_never_takes_the_place_of_a_run_and_a_run_takes_its_place(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = entry_point("train")
    assert train([*words, "debug=fast", "tag=seed0"]) == 0
    assert train(words) == 0  # in its place, from the start
    record = record_of(tmp_path, "seed0")
    assert "debug" not in record
    assert "resumed" not in record
    capsys.readouterr()
    for more in ([], ["overwrite=true"]):
        assert train([*words, "debug=fast", "tag=seed0", *more]) == 2
        assert "is no debug run, and one would replace it" in capsys.readouterr().err
    assert record_of(tmp_path, "seed0") == record


def test_a_debug_run_logs_nowhere_else(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "no such mode")  # which W&B would refuse
    assert entry_point("train")([*words, "debug=fast", "logger=wandb"]) == 0
    assert left_in(tmp_path, "debug-fast") == FILES
