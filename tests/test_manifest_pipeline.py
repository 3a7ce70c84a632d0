"""Cohorts that are not COVID-CT-MD, through the entry points: other classes, images, and slices without a scan."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.pipeline import QUICK, entry_point

WORDS = (
    "data=manifest",
    "model=resnext50",
    "model.weights=none",
    "model.image_size=32",
    "ingest.size=48",
    "ingest.workers=1",
    "trainer.max_epochs=1",
    "trainer.batch_size=8",
    "trainer.gpus=0",
    "balancing=auto",
    "study=own",
)


def write_cohort(folder: Path, *, slices: int) -> Path:
    """Write 8 healthy and 8 sick scans of so many PNG slices, the sick with an opacity, and their manifest."""
    rng = np.random.default_rng(0)
    lines = ["scan_id,path,class,split"]
    for k in range(16):
        label = "sick" if k % 2 else "healthy"
        paths = []
        for index in range(slices):
            hu = np.full((48, 48), -1000.0)
            hu[6:42, 4:44] = 40
            hu[12:34, 8:21] = hu[12:34, 27:40] = -850
            if k % 2:
                hu[20:28, 10:18] = -450
            path = folder / f"images/{k}-{index}.png"
            path.parent.mkdir(exist_ok=True)
            grey = (hu + rng.normal(0, 10, hu.shape) + 1000).clip(0, 1400) / 1400 * 255
            assert cv2.imwrite(str(path), np.rint(grey).astype(np.uint8))
            paths.append(f"images/{path.name}")
        lines.append(f"s{k},{';'.join(paths)},{label},{'validation' if k >= 12 else 'training'}")
    manifest = folder / "scans.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def test_loose_slices_train_and_say_why_they_cannot_be_aggregated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    runs = f"runs={tmp_path / 'runs'}"
    words = [*WORDS, runs, f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")(words) == 0
    run = tmp_path / "runs" / "own" / "resnext50" / "seed0"
    table = pd.read_parquet(run / "predictions.parquet")
    assert {"p_healthy", "p_sick"} <= set(table.columns)
    assert table.groupby("split").size().to_dict() == {"training": 12, "validation": 4}
    assert (table["slice_label"] == table["label"]).all()
    metrics = json.loads((run / "metrics.json").read_text())
    assert "notice" not in metrics
    assert metrics["validation_slices"]["n_slices"] == 4
    capsys.readouterr()
    assert entry_point("aggregate")([runs, "study=own", "ensemble=resnext50"]) == 2
    assert "Every scan of this study has one slice" in capsys.readouterr().err


def test_scans_of_image_slices_reach_the_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_cohort(tmp_path, slices=3)
    labels = tmp_path / "labels.csv"
    rows = [f"s{k},{index},sick" for k in range(1, 16, 2) for index in range(3)]
    labels.write_text("\n".join(["scan_id,slice_index,class", *rows]) + "\n")
    runs = f"runs={tmp_path / 'runs'}"
    words = [runs, f"data.csv={manifest}", f"data.slices={labels}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")([*WORDS, *words]) == 0
    assert entry_point("aggregate")([runs, "study=own", "ensemble=resnext50", *QUICK]) == 0
    metrics = json.loads((tmp_path / "runs/own/ensembles/resnext50/metrics.json").read_text())
    assert metrics["classes"] == ["healthy", "sick"]
    assert metrics["n_features"] == 40
    assert metrics["n_patients"] == 4


def test_a_manifest_with_problems_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    manifest.write_text(manifest.read_text().replace("s3,", "s2,").replace("sick", "ill", 1))
    before = sorted(tmp_path.rglob("*"))
    words = [f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")([*WORDS, *words, "data.classes=[healthy,sick]"]) == 2
    error = capsys.readouterr().err
    assert "scans.csv:3: class 'ill' is none of healthy, sick" in error
    assert "scans.csv:4: scan_id 's2' is given 2 times" in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_copies_for_other_classes_are_refused_before_a_scan_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    before = sorted(tmp_path.rglob("*"))
    words = [f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    paper = [word for word in WORDS if word != "balancing=auto"]
    assert entry_point("train")([*paper, *words, "data.classes=[healthy,sick]"]) == 2
    error = capsys.readouterr().err
    assert "balancing.copies names COVID-19, CAP, but the classes are healthy, sick" in error
    assert "balancing=auto" in error
    assert sorted(tmp_path.rglob("*")) == before
