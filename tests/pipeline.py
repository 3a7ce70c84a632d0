"""A tiny phantom study, trained and aggregated through the entry points, shared by the tests of the whole."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("resnext50", "densenet161")

TINY = (
    "data.phantom.scans={Normal: 5, COVID-19: 5, CAP: 5}",
    "data.phantom.labelled={COVID-19: 4, CAP: 4}",
    "data.labelled_normals=4",
    "data.phantom.rows=64",
    "data.phantom.n_slices=[20, 21]",
    "data.split.validation=0.4",
    "ingest.size=64",
    "ingest.workers=1",
    "model.image_size=32",
    "model.weights=none",
    "trainer.max_epochs=1",
    "trainer.batch_size=16",  # with 32 the networks end so alike that the booster is constant
    "trainer.gpus=0",
    "balancing=auto",
    "features=true",
)
"""Arguments of train.py: 15 small scans, one epoch."""
SMALL_MODEL = "test_resnet"
SMALL = ("model=timm", f"model.name={SMALL_MODEL}")
"""A test model of timm, where any network will do: it trains in an eighth of the time. Needs the extra [timm]."""


def entry_point(name: str) -> Callable[[list[str]], int]:
    """Return the main of an entry point of the checkout; it takes command-line words and returns the exit code."""
    spec = importlib.util.spec_from_file_location(f"entry_{name}", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], int] = module.main
    return main


def stop_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have train.py end as by Ctrl-C once the next epoch is written."""
    from cnr_iemn.stage1.training.checkpoints import (
        LastCheckpoint,  # torch, which the processes of other tests need not load
    )

    plain = LastCheckpoint.on_train_epoch_end

    def stopped(self: LastCheckpoint, *args: object) -> None:
        plain(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", stopped)


def measured_rows(run: Path) -> pd.DataFrame:
    """Return metrics.csv of a run without what tells of the machine: time, speed and memory."""
    table = pd.read_csv(run / "metrics.csv")
    return table[[name for name in table if name != "seconds" and not name.startswith("machine/")]]


QUICK = ("permutations=9", "refits=3", "method_repeats=1")
"""Arguments of aggregate.py: every part of its evidence, few times."""
