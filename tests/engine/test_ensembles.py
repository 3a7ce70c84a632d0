"""Runs and ensembles of another version of the project are refused with what to do, not with a KeyError."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.engine.answers import calibration_line
from cnr_iemn.engine.ensembles import describe_ensemble, read_ensemble, store_of, write_ensemble
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.errors import RunError
from cnr_iemn.patients.frozen import FrozenCalibration
from cnr_iemn.permissions import Permissions
from tests.builders import make_predictions

PERMISSIONS = vars(Permissions(allow_gaps=True))
RECORD: dict[str, Any] = {
    "configuration": {
        "model": {"image_size": 224, "position": "none", "library": "torchvision"},
        "ingest": {"size": 336, "window": [-1000, 400], "crop": "none", **PERMISSIONS},
        "lungs": "border",
    },
    "cohort": {"name": "three"},
    "store": "cache/three",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    run.begin(RECORD, "")
    return run


@pytest.mark.parametrize(
    ("group", "key"),
    [("ingest", "allow_range_mismatch"), ("ingest", "kernel"), ("ingest", "crop"), ("model", "position")],
)
def test_a_run_of_an_earlier_version(group: str, key: str, run: RunFolder) -> None:
    record = copy.deepcopy(RECORD)
    del record["configuration"][group][key]
    run.write_record(record)
    runs, predictions = {"resnext50": run}, {"resnext50": make_predictions()}
    message = (
        rf"resnext50/seed0/run\.json does not say '{key}': an earlier version .* Train it again \(python train\.py "
        r"study=study model=resnext50 tag=seed0 overwrite=true"
    )
    with pytest.raises(RunError, match=message):
        describe_ensemble("study", runs, predictions)
    if group == "ingest":
        with pytest.raises(RunError, match=message):
            store_of(run)


def test_an_ensemble_is_read_as_it_was_written(run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble("study", {"resnext50": run}, {"resnext50": make_predictions()})
    assert ensemble.pixels.allowed == Permissions(allow_gaps=True)
    write_ensemble(tmp_path / "study" / "ensembles" / "one", ensemble)
    assert read_ensemble(tmp_path, "study", "one") == ensemble
    frozen = FrozenCalibration(1.5, 0.6, 0.9, 209, "three", "2021-06-30")
    calibrated = replace(ensemble, calibration=frozen, learnt_from={"P001": "f00d"})
    write_ensemble(tmp_path / "study" / "ensembles" / "one", calibrated)
    assert read_ensemble(tmp_path, "study", "one") == calibrated


def test_an_ensemble_from_before_calibration_is_not_calibrated(run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble("study", {"resnext50": run}, {"resnext50": make_predictions()})
    folder = tmp_path / "study" / "ensembles" / "one"
    write_ensemble(folder, ensemble)
    values = json.loads((folder / "ensemble.json").read_text())
    assert values["calibration"] is None
    del values["learnt_from"]
    (folder / "ensemble.json").write_text(json.dumps(values))
    assert read_ensemble(tmp_path, "study", "one").calibration is None
    assert calibration_line(ensemble).startswith("The probabilities are the booster's own, not calibrated")


@pytest.mark.parametrize(
    "change", ["a permission that is no more", "no permissions", "a member's key", "half a calibration"]
)
def test_an_ensemble_of_another_version(change: str, run: RunFolder, tmp_path: Path) -> None:
    ensemble = describe_ensemble("study", {"resnext50": run}, {"resnext50": make_predictions()})
    folder = tmp_path / "study" / "ensembles" / "one"
    write_ensemble(folder, ensemble)
    values = json.loads((folder / "ensemble.json").read_text())
    if change == "a member's key":
        del values["members"][0]["position"]
    elif change == "half a calibration":
        values["calibration"] = {"temperature": 1.5}
    elif change == "no permissions":
        del values["pixels"]["allowed"]
    else:
        values["pixels"]["allowed"]["allow_everything"] = True
    (folder / "ensemble.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"another version .* Run python aggregate\.py study=study ensemble=one again"):
        read_ensemble(tmp_path, "study", "one")
