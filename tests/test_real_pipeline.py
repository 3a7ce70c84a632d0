"""The three real scans through training and prediction of every slice."""

import json
from pathlib import Path

import pytest

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from tests.pipeline import SMALL, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")


def test_three_real_scans_train_and_every_slice_is_predicted(
    sample_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *SMALL,
        "model.weights=none",
        "model.image_size=32",
        "data=covid_ct_md",
        f"data.root={sample_root}",
        "data.split.validation=0",
        "trainer.max_epochs=1",
        "trainer.gpus=0",
        "study=real",
        f"runs={tmp_path / 'runs'}",
        f"ingest.cache={tmp_path / 'cache'}",
        "ingest.size=64",
    ]
    assert entry_point("train")(words) == 0
    run = tmp_path / "runs" / "real" / "test_resnet" / "seed0"
    predictions = read_predictions(run / "predictions.parquet")
    counts = predictions.table.groupby("scan_id").size().to_dict()
    assert counts == {"P001": 148, "cap001": 168, "normal001": 154}
    infected = predictions.table["slice_label"].value_counts().to_dict()
    assert infected == {"Normal": 470 - 80 - 86, "COVID-19": 80, "CAP": 86}
    assert predictions.metadata.checkpoint == "last"  # nothing to select on
    assert not predictions.metadata.phantom
    assert "notice" not in json.loads((run / "run.json").read_text())
    assert "phantom" not in capsys.readouterr().out
    aggregate = entry_point("aggregate")
    assert aggregate([f"runs={tmp_path / 'runs'}", "study=real", "ensemble=test_resnet"]) == 2
    assert "no validation scan" in capsys.readouterr().err
