"""Out of fold from the command line: fold networks by one multirun, aggregation, prediction."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from tests.pipeline import QUICK, SMALL, TINY, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

MODEL = "test_resnet"


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A study with networks that trained on all training scans, and those of two folds."""
    words = [f"runs={tmp_path_factory.mktemp('runs')}", "study=folds"]
    train = [*TINY, *words, f"ingest.cache={tiny_study / 'cache'}", *SMALL, "data.folds=2"]
    assert entry_point("train")(["-m", *train, "trainer.checkpoint=last", "data.fold=null,0,1"]) == 0
    return words


def test_out_of_fold_answers_are_what_predict_gives(study: list[str], tiny_study: Path) -> None:
    folder = Path(study[0].removeprefix("runs=")) / "folds"
    ensemble = [*study, f"ensemble={MODEL}"]
    assert entry_point("aggregate")([*ensemble, "booster.features=out_of_fold", "ablations=true", *QUICK]) == 0
    metrics = json.loads((folder / "ensembles" / MODEL / "metrics.json").read_text())
    assert (metrics["features"], metrics["folds"]) == ("out_of_fold", 2)
    ablations = metrics["ablations"]  # of both folds' networks, read from their checkpoints
    assert (ablations["n"], ablations["networks"], len(ablations["rows"])) == (6, 2, 6)
    assert ablations["agreement"] > 0.99
    assert ablations["rows"]["unaltered"]["confusion_matrix"] == metrics["confusion_matrix"]
    split = pd.read_csv(folder / "split.csv").set_index("scan_id")
    for fold in range(2):
        predictions = read_predictions(folder / MODEL / f"seed0-fold{fold}" / "predictions.parquet")
        trained = list(predictions.metadata.training_scan_ids)
        assert trained
        assert (split.loc[trained, "split"] == "training").all()
        assert (predictions.scans.loc[trained, "fold"] != fold).all()

    patients = pd.read_csv(folder / "ensembles" / MODEL / "patients.csv").set_index("scan_id")
    scan_id = patients.index[patients["split"] == "validation"][0]
    (scan,) = tiny_study.glob(f"cache/phantom-*/* subjects/{scan_id}")
    assert entry_point("predict")([*ensemble, f"input={scan}", "gpus=0"]) == 0
    (answer,) = json.loads(next((folder / "predictions").rglob("predictions.json")).read_text())["scans"]
    for name, probability in answer["probabilities"].items():
        assert probability == pytest.approx(patients.loc[scan_id, f"p_{name}"], abs=1e-6)


def test_missing_fold_networks_are_named(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*study, f"ensemble={MODEL}", "booster.features=out_of_fold", "tag=seed0-fold0"]
    assert entry_point("aggregate")(words) == 2
    assert "has no run seed0-fold0-fold0" in capsys.readouterr().err


def test_pseudo_labels_of_a_finished_study_train_another(
    tiny_study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    common = [*TINY, f"runs={runs}", f"ingest.cache={tiny_study / 'cache'}", *SMALL, "data.folds=2"]
    common += ["data.split.validation=0.25"]  # a labelled scan of each class; the unlabelled ones train
    first_round = ["-m", *common, "study=folds", "trainer.checkpoint=last", "data.fold=null,0,1"]
    assert entry_point("train")(first_round) == 0
    words = [*common, "study=second"]
    with caplog.at_level("INFO"):
        assert entry_point("train")([*words, "data.pseudo_labels=folds", "data.pseudo_confidence=0.51"]) == 0
    first, second = (
        read_predictions(runs / name / MODEL / "seed0" / "predictions.parquet") for name in ("folds", "second")
    )
    split = pd.read_csv(runs / "second" / "split.csv").set_index("scan_id")
    assert (runs / "second" / "split.csv").read_bytes() == (runs / "folds" / "split.csv").read_bytes()
    new = set(second.metadata.training_scan_ids) - set(first.metadata.training_scan_ids)
    unlabelled = split[(split["split"] == "training") & ~split["slice_labelled"] & (split["label"] != "Normal")]
    assert new == set(unlabelled.index)
    assert new
    pd.testing.assert_series_equal(first.table["slice_label"], second.table["slice_label"])  # a reader's alone
    assert "by the phantom's truth: precision" in caplog.text
    assert entry_point("train")([*words, "data.pseudo_labels=absent"]) == 2
