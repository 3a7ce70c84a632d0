"""Features from train.py to predict.py: kept, learnt from, written for new scans, and scored again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.schemas import probability_columns
from tests.pipeline import MODELS, entry_point

METHOD, SCAN = "attention over deep features", "P005"
WIDTHS = {"resnext50": 2048, "densenet161": 2208}
QUICK = ("methods=false", "permutations=0", "refits=0")


@pytest.fixture(scope="module")
def study(varied_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a study whose primary method learns from features."""
    runs = tmp_path_factory.mktemp("deep") / "runs"
    shutil.copytree(varied_study / "runs", runs)
    words = [f"runs={runs}", "study=tiny", f"ensemble=[{','.join(MODELS)}]", *QUICK]
    assert entry_point("aggregate")([*words, f'primary_method="{METHOD}"', "ablations=true", "gpus=0"]) == 0
    return runs


def test_a_run_keeps_the_features_of_every_slice(varied_study: Path) -> None:
    for model, width in WIDTHS.items():
        run = varied_study / "runs" / "tiny" / model / "seed0"
        features = np.load(run / "features.npy", allow_pickle=False)
        predictions = read_predictions(run / "predictions.parquet")
        assert features.shape == (len(predictions.table), width)
        assert features.dtype == np.float16
        assert np.isfinite(features).all()
        assert np.ptp(features.astype(float), axis=0).max() > 0.1  # slices differ
    metrics = json.loads((varied_study / "runs/tiny/ensembles/resnext50+densenet161/metrics.json").read_text())
    assert METHOD in metrics["methods"]  # compared beside the others, since the runs keep features


def test_predict_answers_and_aggregate_scores_alike(study: Path, tiny_study: Path, tmp_path: Path) -> None:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    source = [f"input={cohort.parent / 'COVID-19 subjects' / SCAN}", "gpus=0", "engine=torch", "features=true"]
    words = [f"runs={study}", "study=tiny", f"ensemble=[{','.join(MODELS)}]"]
    assert entry_point("predict")([*words, *source, f"output={tmp_path / 'new'}"]) == 0
    (scan,) = json.loads((tmp_path / "new" / "predictions.json").read_text())["scans"]

    ensemble = study / "tiny" / "ensembles" / "+".join(MODELS)
    row = pd.read_csv(ensemble / "patients.csv").set_index("scan_id").loc[SCAN]
    expected = row[[f"p_{name}" for name in scan["probabilities"]]].to_numpy(dtype=float)
    assert list(scan["probabilities"].values()) == pytest.approx(expected, abs=1e-3)  # batches of another size round
    features = load_file(tmp_path / "new" / "features" / f"{SCAN}.safetensors")
    assert {name: values.shape for name, values in features.items()} == {
        model: (scan["n_slices"], width) for model, width in WIDTHS.items()
    }
    table = read_predictions(study / "tiny" / MODELS[0] / "seed0" / "predictions.parquet").table
    kept = np.load(study / "tiny" / MODELS[0] / "seed0" / "features.npy")[(table["scan_id"] == SCAN).to_numpy()]
    np.testing.assert_allclose(features[MODELS[0]].astype(float), kept.astype(float), atol=0.01, rtol=0.01)

    parquet = pd.read_parquet(tmp_path / "new" / "predictions.parquet")
    assert [name for name in parquet if name.startswith("component_")] == [f"component_{k}" for k in range(16)]
    (tmp_path / "T1.csv").write_text(f"Study,Label\n{SCAN},{row['label']}\n")
    scored = [f"evaluate={tmp_path / 'new' / 'predictions.parquet'}", f"labels={tmp_path / 'T1.csv'}"]
    assert entry_point("aggregate")([*words, *scored]) == 0
    external = pd.read_csv(ensemble / "external" / "T1" / "patients.csv").set_index("scan_id").loc[SCAN]
    classes = list(scan["probabilities"])
    assert external[probability_columns(classes)].tolist() == list(scan["probabilities"].values())


def test_features_of_scans_that_are_no_longer_predicted_are_removed_and_no_others(
    study: Path, tiny_study: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "features" / "another.safetensors"
    foreign.parent.mkdir()
    foreign.write_bytes(b"of another program")
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    words = [f"runs={study}", "study=tiny", f"ensemble=[{','.join(MODELS)}]", f"output={tmp_path}", "gpus=0"]
    for scan, names in ((SCAN, {SCAN}), ("P004", {"P004"})):
        source = [f"input={cohort.parent / 'COVID-19 subjects' / scan}", "engine=torch", "pages=false", "features=true"]
        assert entry_point("predict")([*words, *source]) == 0
        assert {path.stem for path in foreign.parent.iterdir()} == {"another", *names}
    assert entry_point("predict")([*words, *source, "features=false"]) == 0
    assert foreign.read_bytes() == b"of another program"
    assert list(foreign.parent.iterdir()) == [foreign]


def test_damaged_or_missing_features_are_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(study, runs)
    ensemble = f"ensemble=[{','.join(MODELS)}]"
    declare = [f"runs={runs}", "study=tiny", ensemble, *QUICK, f'primary_method="{METHOD}"']
    projections = runs / "tiny" / "ensembles" / "+".join(MODELS) / "projections.safetensors"
    projections.write_bytes(projections.read_bytes()[:-1])
    assert entry_point("predict")([f"runs={runs}", "study=tiny", ensemble, f"input={tmp_path}", "gpus=0"]) == 2
    assert "projections.safetensors is not the file that ensemble.json names" in capsys.readouterr().err
    folder = runs / "tiny" / MODELS[1] / "seed0"
    (folder / "features.npy").write_bytes((folder / "features.npy").read_bytes()[:-2])
    assert entry_point("aggregate")(declare) == 2
    assert "features.npy is not the file that this run wrote" in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())
    del record["features_sha256"]
    (folder / "run.json").write_text(json.dumps(record))
    assert entry_point("aggregate")(declare) == 2
    assert "densenet161's run seed0 keeps no features of its slices" in capsys.readouterr().err
    assert entry_point("aggregate")(declare[:-1]) == 0  # which another method does not need
    assert not projections.exists()
