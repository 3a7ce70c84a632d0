"""Training curves are read from metrics.csv as train.py writes it; a run without one costs its curve alone."""

import logging
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.report.figures.training import training_figure
from cnr_iemn.report.training_curves import read_training_curves
from cnr_iemn.stage1.training.run_folder import RunFolder


def run_in(folder: Path) -> RunFolder:
    return RunFolder(folder, "study", "model", "seed0")


HEADER = "schema_version,epoch,seconds,train/loss,val/loss,train/slice_balanced_accuracy,val/slice_balanced_accuracy"


def test_the_columns_are_those_of_metrics_csv(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{HEADER}\n1,0,9.5,0.9,0.8,0.4,0.35\n1,1,9.5,0.5,,0.7,0.6\n")
    curve = read_training_curves({"resnext50": run_in(tmp_path)})["resnext50"]
    assert len(curve) == 2
    assert curve.training_loss.tolist() == [0.9, 0.5]
    assert curve.validation_loss[0] == 0.8
    assert np.isnan(curve.validation_loss[1])
    assert curve.validation_accuracy.tolist() == [0.35, 0.6]
    assert training_figure({"resnext50": curve}).text == "Training curves. ResNeXt-50: 2 epochs."


def test_a_run_without_validation_has_its_training_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("schema_version,epoch,train/loss\n1,0,0.9\n")
    curve = read_training_curves({"x": run_in(tmp_path)})["x"]
    assert np.isnan(curve.validation_loss).all()
    assert "<svg" in training_figure({"x": curve}).svg


@pytest.mark.parametrize("content", [None, "", "\x00\x01", f"{HEADER}\n"])
def test_a_file_that_cannot_be_read_costs_only_its_curve(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    whole.mkdir()
    other.mkdir()
    (whole / "metrics.csv").write_text(f"{HEADER}\n1,0,9.5,0.9,0.8,0.4,0.35\n")
    if content is not None:
        (other / "metrics.csv").write_text(content)
    with caplog.at_level(logging.WARNING):
        found = read_training_curves({"x": run_in(other), "resnext50": run_in(whole)})
    assert "resnext50" in found
    assert "x" not in found or np.isnan(found["x"].training_loss).all()
