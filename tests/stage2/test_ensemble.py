"""Runs and ensembles of another version of the project are refused with what to do, not with a KeyError."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.errors import RunError
from cnr_iemn.inference.scan_result import calibration_sentence
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.calibration import Calibrator
from cnr_iemn.stage2.ensemble import read_ensemble, signed_text, write_ensemble
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns, describe_ensemble, run_store
from tests.builders import make_predictions

READ_OPTIONS = vars(ReadOptions(allow_gaps=True))
RECORD: dict[str, Any] = {
    "configuration": {
        "model": {"image_size": 224, "position": "none", "library": "torchvision", "weights": "none"},
        "ingest": {"size": 336, "window": [-1000, 400], "crop": "none", **READ_OPTIONS},
        "lungs": "border",
        "data": {
            "reader": "covid_ct_md",
            "folds": 5,
            "split": {"file": None, "seed": 0},
            "exclude": [],
            "shuffle_training_labels": False,
        },
    },
    "hardware": "2 CPU cores",
    "versions": {},
    "cohort": {"name": "three"},
    "store": "cache/three",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    run.start(RECORD, "")
    return run


@pytest.mark.parametrize(
    ("group", "key"),
    [("ingest", "allow_range_mismatch"), ("ingest", "kernel"), ("ingest", "crop"), ("model", "position")],
)
def test_a_run_of_an_earlier_version(group: str, key: str, run: RunFolder) -> None:
    record = {**copy.deepcopy(RECORD), "status": "running"}
    del record["configuration"][group][key]
    run.write_record(record)
    runs, predictions = {"resnext50": run}, {"resnext50": make_predictions()}
    message = (
        rf"resnext50/seed0/run\.json lacks '{key}': an earlier version .* Train it again \(python train\.py "
        r"study=study .*model=resnext50 .*tag=seed0 overwrite=true"
    )
    with pytest.raises(RunError, match=message):
        describe_ensemble(EnsembleRuns(runs, predictions))
    if group == "ingest":
        with pytest.raises(RunError, match=message):
            run_store(run)


def test_an_ensemble_is_read_as_it_was_written(run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble(EnsembleRuns({"resnext50": run}, {"resnext50": make_predictions()}))
    assert ensemble.pixels.read_options == ReadOptions(allow_gaps=True)
    write_ensemble(tmp_path / "study" / "ensembles" / "one", ensemble)
    assert read_ensemble(tmp_path, "study", "one") == ensemble
    frozen = Calibrator(1.5, 0.6, 0.9, 209, "three", "2021-06-30")
    calibrated = replace(ensemble, calibration=frozen, learnt_from={"P001": "f00d"})
    write_ensemble(tmp_path / "study" / "ensembles" / "one", calibrated)
    assert read_ensemble(tmp_path, "study", "one") == calibrated


def test_members_of_an_earlier_file_are_read_and_unknown_channels_refused(run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble(EnsembleRuns({"resnext50": run}, {"resnext50": make_predictions()}))
    write_ensemble(tmp_path / "study" / "ensembles" / "one", ensemble)
    path = tmp_path / "study" / "ensembles" / "one" / "ensemble.json"
    values = json.loads(path.read_text())
    for key in ("channels", "tta", "replicate"):
        del values["members"][0][key]
    path.write_text(signed_text(values))
    assert read_ensemble(tmp_path, "study", "one") == ensemble
    values["members"][0]["channels"] = ["grey", "mask", "../x"]
    path.write_text(signed_text(values))
    with pytest.raises(RunError, match=r"members\.0\.channels\.2"):
        read_ensemble(tmp_path, "study", "one")


def test_an_ensemble_without_a_calibration_is_not_calibrated(run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble(EnsembleRuns({"resnext50": run}, {"resnext50": make_predictions()}))
    folder = tmp_path / "study" / "ensembles" / "one"
    write_ensemble(folder, ensemble)
    values = json.loads((folder / "ensemble.json").read_text())
    assert values["calibration"] is None
    assert read_ensemble(tmp_path, "study", "one").calibration is None
    assert calibration_sentence(ensemble).startswith(
        "Probabilities are those of XGBoost on percentages, not calibrated"
    )


@pytest.mark.parametrize(
    "change",
    [
        "an unknown read option",
        "no read options",
        "no allow_gaps",
        "a member's key",
        "half a calibration",
        "no training scans",
        "features of a later version",
        "no checksum",
    ],
)
def test_an_ensemble_of_another_version(change: str, run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble(EnsembleRuns({"resnext50": run}, {"resnext50": make_predictions()}))
    folder = tmp_path / "study" / "ensembles" / "one"
    write_ensemble(folder, ensemble)
    values = json.loads((folder / "ensemble.json").read_text())
    if change == "a member's key":
        del values["members"][0]["position"]
    elif change == "half a calibration":
        values["calibration"] = {"temperature": 1.5}
    elif change == "no read options":
        del values["pixels"]["read_options"]
    elif change == "no allow_gaps":
        del values["pixels"]["read_options"]["allow_gaps"]
    elif change == "no training scans":
        del values["learnt_from"]
    elif change == "features of a later version":
        values["features"] = "of both"
    elif change == "no checksum":
        pass
    else:
        values["pixels"]["read_options"]["allow_everything"] = True
    del values["sha256"]
    (folder / "ensemble.json").write_text(json.dumps(values) if change == "no checksum" else signed_text(values))
    with pytest.raises(RunError, match=r"another version .* Run python aggregate\.py study=study ensemble=one .*again"):
        read_ensemble(tmp_path, "study", "one")
