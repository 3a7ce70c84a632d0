"""Any primary stage-2 method gives the same answers in aggregate.py, in predict.py and from a bundle."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from cnr_iemn.constants import method_names
from cnr_iemn.ct.preprocess import PreparedScan, prepare_scan
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.errors import RunError
from cnr_iemn.inference.bundle import open_bundle
from cnr_iemn.inference.bundle_writer import write_bundle
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.predictor import Predictor
from cnr_iemn.schemas import probability_columns, region_columns
from cnr_iemn.stage1.models.predict import SliceOutputs
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import LoadedEnsemble, Member, load_study_ensemble
from cnr_iemn.stage2.methods.registry import METHODS
from tests.pipeline import entry_point

MODEL, SCAN = "resnext50", "P005"
WITH_CONTRIBUTIONS = ("percentages", "mean probabilities", "both")


@pytest.fixture(scope="module")
def runs(tiny_study: Path, varied_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that the tests of this module aggregate again and again."""
    folder = tmp_path_factory.mktemp("primary")
    shutil.copytree(varied_study / "runs", folder / "runs")
    return folder / "runs"


@pytest.fixture(scope="module")
def prepared(tiny_study: Path, runs: Path) -> PreparedScan:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    pixels = load_study_ensemble(runs, "tiny", "resnext50+densenet161").ensemble.pixels
    return prepare_scan(
        cohort.parent / "COVID-19 subjects" / SCAN,
        size=pixels.size,
        lungs=pixels.lungs,
        window=pixels.window,
        crop=pixels.crop,
    )


class SavedNetworks:
    """Networks that say what they said when the study was trained, so that only stage 2 is compared."""

    def __init__(self, runs: Path, loaded: LoadedEnsemble) -> None:
        folder = runs / "tiny" / MODEL / "seed0"
        run = read_predictions(folder / "predictions.parquet")
        rows = (run.table["scan_id"] == SCAN).to_numpy()
        regions = run.table.loc[rows, region_columns(5)].to_numpy()
        self._outputs = SliceOutputs(run.probabilities[rows], regions, np.load(folder / "features.npy")[rows])
        self._space = loaded.load_space()

    def outputs(self, prepared: PreparedScan) -> dict[Member, SliceOutputs]:
        return {}

    def channels(self, outputs: dict[Member, SliceOutputs]) -> NDArray[np.float32]:
        slices = self._outputs.classes
        if self._space is not None:
            slices = self._space.channels(MODEL, None, slices, self._outputs.features)
        return slices[None]


def answer(loaded: LoadedEnsemble, runs: Path, prepared: PreparedScan) -> dict:
    predictor = Predictor(loaded, choose_hardware(0), engine="torch", explanations=False)
    predictor.__dict__["networks"] = SavedNetworks(runs, loaded)
    return dict(predictor.predict_scan(SCAN, Path("unread"), prepared).prediction)


def declare(runs: Path, method: str, *words: str) -> Path:
    """Aggregate the study with a method; return the folder of its ensemble."""
    quick = ("methods=false", "permutations=0", "refits=0", f"ensemble={MODEL}", "booster.rounds=8", *words)
    assert entry_point("aggregate")([f"runs={runs}", "study=tiny", f'primary_method="{method}"', *quick]) == 0
    return runs / "tiny" / "ensembles" / MODEL


# networks with attention are in test_bags_pipeline
@pytest.mark.parametrize("method", [name for name in method_names() if not METHODS[name].scored])
def test_the_same_answer_everywhere(method: str, runs: Path, prepared: PreparedScan, tmp_path: Path) -> None:
    folder = declare(runs, method)
    document = json.loads((folder / "ensemble.json").read_text())
    names = {path.name for path in folder.iterdir()}
    files = {"booster.ubj", "method.json"} & names
    assert document["method"] == json.loads((folder / "metrics.json").read_text())["method"] == method
    assert len(files) == 1  # none is left of the method before
    assert files < set(document["files"])
    assert ("projections.safetensors" in names) is METHODS[method].deep  # and none of the method before
    patients = pd.read_csv(folder / "patients.csv").set_index("scan_id")
    loaded = load_study_ensemble(runs, "tiny", MODEL)
    bundle, weights = tmp_path / "bundle", {member: torch.nn.Linear(1, 1) for member in loaded.ensemble.members}
    networks = cast(EnsembleNetworks, SimpleNamespace(networks=weights))  # which nothing here runs
    write_bundle(bundle, loaded, networks, onnx=False, license_name="other")
    predicted, exported = (answer(each, runs, prepared) for each in (loaded, open_bundle(bundle)))
    assert predicted == exported
    classes = loaded.ensemble.classes
    row = patients.loc[SCAN]
    assert row["split"] == "validation"
    assert predicted["class"] == row["predicted"]
    assert list(predicted["probabilities"].values()) == row[probability_columns(classes)].tolist()
    assert list(predicted["calibrated"].values()) == row[[f"calibrated_{name}" for name in classes]].tolist()
    assert predicted["undecided"] is bool(row["undecided"])
    assert (predicted["contributions"] is not None) is any(word in method for word in WITH_CONTRIBUTIONS)
    (file,) = files
    (bundle / file).write_bytes((bundle / file).read_bytes()[:-1])
    with pytest.raises(RunError, match=rf"{file} is not what export\.py wrote"):
        open_bundle(bundle)


def test_the_commands_and_pages_follow_the_primary_method(
    tiny_study: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "attention over the slices"
    folder = declare(runs, method, "booster.rounds=3")
    assert f"ResNeXt-50, {method} is correct for" in capsys.readouterr().out
    report = (folder / "report.html").read_text()
    assert f"The stage-2 method, {method}, does not say what each slice contributes." in report
    assert f"and {method} predicts the class of the scan" in (folder / "model_card.md").read_text()
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    source = [f"input={cohort.parent / 'COVID-19 subjects' / SCAN}", "gpus=0", "engine=torch"]
    study = [f"runs={runs}", "study=tiny", f"ensemble={MODEL}"]
    assert entry_point("predict")([*study, *source, f"output={tmp_path / 'study'}"]) == 0
    assert entry_point("export")([*study, f"output={tmp_path / 'bundle'}", "onnx=false"]) == 0
    assert entry_point("predict")([f"bundle={tmp_path / 'bundle'}", *source, f"output={tmp_path / 'exported'}"]) == 0
    first, second = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("study", "exported"))
    assert first == second
    assert first["method"] == method
    assert first["scans"][0]["contributions"] is None
    page = (tmp_path / "study" / f"{SCAN}.html").read_text()
    assert f'The stage-2 method of this study, "{method}", does not say' in page
    assert "log-odds" not in page
    assert (
        page.count('<div class="layers">') == page.count("data:image/png") == 3
    )  # three slices, each with its Grad-CAM

    patients = pd.read_csv(folder / "patients.csv").set_index("scan_id")
    (tmp_path / "T1.csv").write_text(f"Study,Label\n{SCAN},{patients.loc[SCAN, 'label']}\n")
    scored = [f"evaluate={tmp_path / 'study' / 'predictions.parquet'}", f"labels={tmp_path / 'T1.csv'}"]
    assert entry_point("aggregate")([*study, *scored]) == 0
    external = json.loads((folder / "external" / "T1" / "metrics.json").read_text())
    assert external["method"] == method
    assert entry_point("aggregate")([*study, "methods=false", "permutations=0", "refits=0"]) == 0
    capsys.readouterr()
    assert entry_point("aggregate")([*study, *scored]) == 2
    assert "the SHA-256 of the stage-2 method differs" in capsys.readouterr().err


def test_a_file_of_another_fit_or_method_is_refused_before_it_is_parsed(runs: Path) -> None:
    folder = declare(runs, "logistic regression on few features")
    text = (folder / "method.json").read_text()
    (folder / "method.json").write_text(text.replace("1", "2", 1))
    with pytest.raises(RunError, match=r"method\.json is not the file that ensemble\.json names"):
        load_study_ensemble(runs, "tiny", MODEL).load_method()
