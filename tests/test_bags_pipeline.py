"""A cohort with labelled slices in one scan alone: bags through training, stage 2, prediction, bundle and page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.schemas import probability_columns
from tests.pipeline import SMALL, TINY, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

METHOD, SCAN, MODEL = "attention of the networks", "P005", "test_resnet"
FEW_LABELS = ("data.phantom.labelled={COVID-19: 1, CAP: 0}", "data.labelled_normals=0")
BAGS = ("task=bags", "data.slice_labels=from_patient", "trainer.bag_size=8")
QUICK = ("methods=true", "method_repeats=1", "permutations=0", "refits=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and cache of a study whose network learnt from bags, aggregated with its own answer."""
    folder = tmp_path_factory.mktemp("bags")
    words = [*TINY, *SMALL, *FEW_LABELS, *BAGS, f"ingest.cache={folder / 'cache'}", "trainer.learning_rate=0.01"]
    assert entry_point("train")([*words, *study(folder)]) == 0
    assert entry_point("aggregate")([*study(folder), *QUICK, f"ensemble={MODEL}", f'primary_method="{METHOD}"']) == 0
    return folder


def study(folder: Path) -> list[str]:
    return [f"runs={folder / 'runs'}", "study=bags"]


def test_the_run_keeps_scores_and_the_figures_of_scans(folder: Path) -> None:
    run = folder / "runs" / "bags" / MODEL / "seed0"
    predictions = read_predictions(run / "predictions.parquet")
    assert predictions.scores is not None
    assert np.isfinite(predictions.scores).all()
    assert np.ptp(predictions.scores) > 0  # learnt
    assert predictions.metadata.slice_labels == "from_patient"
    (epoch,) = pd.read_csv(run / "metrics.csv").to_dict("records")
    assert 0 <= epoch["val/scan_accuracy"] <= 1
    assert json.loads((run / "run.json").read_text())["score"] == pytest.approx(epoch["val/scan_accuracy"])


def test_stage_2_bundle_and_page_give_the_networks_answer(folder: Path, tmp_path: Path) -> None:
    ensemble = folder / "runs" / "bags" / "ensembles" / MODEL
    metrics = json.loads((ensemble / "metrics.json").read_text())
    assert metrics["method"] == METHOD
    assert {METHOD, "XGBoost on percentages", "attention over deep features"} < set(metrics["methods"])
    assert json.loads((ensemble / "ensemble.json").read_text())["members"][0]["attention"] is True
    row = pd.read_csv(ensemble / "patients.csv").set_index("scan_id").loc[SCAN]

    # by hand: of the run's own slices
    run = read_predictions(folder / "runs" / "bags" / MODEL / "seed0" / "predictions.parquet")
    rows = (run.table["scan_id"] == SCAN).to_numpy()
    weights = np.exp(run.scores[rows].astype(float))  # type: ignore[index]
    logits = (weights / weights.sum()) @ np.log(run.probabilities[rows].astype(float))
    expected = np.exp(logits) / np.exp(logits).sum()
    columns = probability_columns(run.metadata.classes)
    np.testing.assert_allclose(row[columns].to_numpy(dtype=float), expected, atol=1e-6)

    (cohort,) = folder.glob("cache/phantom-*/Index.csv")
    source = [f"input={cohort.parent / 'COVID-19 subjects' / SCAN}", "gpus=0", "engine=torch"]
    words = [*study(folder), f"ensemble={MODEL}"]
    assert entry_point("predict")([*words, *source, f"output={tmp_path / 'study'}"]) == 0
    assert entry_point("export")([*words, f"output={tmp_path / 'bundle'}"]) == 0  # ONNX, too
    assert entry_point("predict")([f"bundle={tmp_path / 'bundle'}", *source, f"output={tmp_path / 'exported'}"]) == 0
    first, second = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("study", "exported"))
    assert first == second
    assert first["method"] == METHOD
    probabilities = list(first["scans"][0]["probabilities"].values())
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-4)
    assert (
        f'The stage-2 method of this study, "{METHOD}", does not say'
        in (tmp_path / "study" / f"{SCAN}.html").read_text()
    )
    (tmp_path / "T1.csv").write_text(f"Study,Label\n{SCAN},{row['label']}\n")
    scored = [f"evaluate={tmp_path / 'study' / 'predictions.parquet'}", f"labels={tmp_path / 'T1.csv'}"]
    assert entry_point("aggregate")([*words, *scored]) == 0
    external = pd.read_csv(ensemble / "external" / "T1" / "patients.csv").set_index("scan_id").loc[SCAN]
    assert external[columns].tolist() == probabilities


def test_what_does_not_fit_bags_is_refused(folder: Path, tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, *SMALL, *study(folder), f"ingest.cache={folder / 'cache'}", "tag=other", "task=bags"]
    assert entry_point("train")(words) == 2
    assert "Add data.slice_labels=from_patient" in capsys.readouterr().err
    assert entry_point("train")([*words, *BAGS, "trainer.cpu_processes=2"]) == 2
    assert "task=bags trains in one process, and 2 were asked for" in capsys.readouterr().err
    declared = ["study=tiny", "ensemble=resnext50", f'primary_method="{METHOD}"', f"runs={tiny_study / 'runs'}"]
    assert entry_point("aggregate")([*declared, *QUICK]) == 2
    assert "these networks have none. Train them with task=bags" in capsys.readouterr().err


def test_three_real_scans_train_as_bags(sample_root: Path, tmp_path: Path) -> None:
    words = [
        *SMALL,
        *BAGS[:2],
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
    predictions = read_predictions(tmp_path / "runs" / "real" / MODEL / "seed0" / "predictions.parquet")
    counts = predictions.table.groupby("scan_id").size().to_dict()
    assert counts == {"P001": 148, "cap001": 168, "normal001": 154}
    assert predictions.scores is not None
    assert np.isfinite(predictions.scores).all()
