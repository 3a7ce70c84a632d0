"""Files of a run that do not belong together, or were changed, are refused before stage 2 learns from them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.aggregate import write_store
from cnr_iemn.config.schema.aggregate import BoosterSettings
from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import RunError, StoreError
from cnr_iemn.stage1.training.run_record import stored_pixels
from cnr_iemn.stage2.ensemble import read_ensemble, write_ensemble
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns, describe_ensemble, read_runs, run_store
from cnr_iemn.stage2.provenance import provenance
from tests.damages import flipped
from tests.evaluation.test_study_replicates import SCANS, change_record, write_run
from tests.new_scans import write_study

pytestmark = pytest.mark.slow

MODEL = "resnext50"


def read(runs: Path, features: str = "paper") -> EnsembleRuns:
    return read_runs(runs, "here", (MODEL,), "seed0", features=features)


@pytest.mark.parametrize("other", ["there/resnext50/seed0", "here/resnext50/seed1", "here/my_net/seed0"])
def test_the_predictions_of_another_run_are_refused(other: str, tmp_path: Path) -> None:
    write_run(tmp_path, "here", MODEL, "seed0", 0)
    study, model, tag = other.split("/")
    write_run(tmp_path, study, model, tag, 5)
    name = "predictions.parquet"
    shutil.copy(tmp_path / other / name, tmp_path / "here" / MODEL / "seed0" / name)
    with pytest.raises(RunError, match=r"predictions\.parquet is not the file that this run wrote.*Copy both back"):
        read(tmp_path)


def test_predictions_without_a_checksum_in_run_json_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "here", MODEL, "seed0", 0)
    change_record(tmp_path, f"here/{MODEL}/seed0", lambda record: record.pop("predictions_sha256"))
    with pytest.raises(RunError, match=r"run\.json has no checksum of predictions\.parquet: an earlier version"):
        read(tmp_path)


def test_a_folder_in_place_of_predictions_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, "here", MODEL, "seed0", 0)
    path = tmp_path / "here" / MODEL / "seed0" / "predictions.parquet"
    path.unlink()
    path.mkdir()
    with pytest.raises(
        RunError, match=r"predictions\.parquet, which .* wrote, is a folder.*Runs with predictions: none"
    ):
        read(tmp_path)


REQUIRED = (
    "configuration.data",
    "configuration.data.folds",
    "configuration.data.split",
    "configuration.data.exclude",
    "configuration.data.shuffle_training_labels",
    "configuration.model",
    "configuration.model.weights",
    "configuration.model.library",
    "configuration.ingest",
    "configuration.ingest.kernel",
    "configuration.lungs",
    "cohort",
    "cohort.name",
    "store",
    "hardware",
    "versions",
)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_key_that_run_json_lacks_is_named(key: str, tmp_path: Path) -> None:
    for tag in ("seed0", "seed0-fold0", "seed0-fold1"):
        write_run(tmp_path, "here", MODEL, tag, 0)

    def remove(record: dict[str, Any]) -> None:
        *groups, name = key.split(".")
        for group in groups:
            record = record[group]
        del record[name]

    for tag in ("seed0", "seed0-fold0", "seed0-fold1"):
        change_record(tmp_path, f"here/{MODEL}/{tag}", remove)
    with pytest.raises(RunError, match=rf"run\.json lacks .*{key.rsplit('.', 1)[-1]}.*Train it again"):
        _use(read(tmp_path, features="out_of_fold"))


def _use(joined: EnsembleRuns) -> None:
    """Read all that aggregation reads of run.json."""
    describe_ensemble(joined)
    provenance(joined, BoosterSettings(), method=BOOSTER_METHOD)
    run_store(joined.first_run)


def widen(record: dict[str, Any]) -> None:
    record["configuration"]["ingest"]["window"] = [float("inf"), -5.0]


def rename_mask(record: dict[str, Any]) -> None:
    record["configuration"]["lungs"] = "nothing"


@pytest.mark.parametrize("change", [widen, rename_mask])
def test_pixel_settings_that_are_not_the_store_s_are_refused(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    write_run(tmp_path, "here", MODEL, "seed0", 0)
    place = f"here/{MODEL}/seed0"
    root = tmp_path / PixelSettings(size=32).fingerprint()
    root.mkdir()
    change_record(tmp_path, place, lambda record: record.update(store=str(root)))
    run = next(iter(read(tmp_path).runs.values()))
    assert run_store(run).root == root
    change_record(tmp_path, place, change)
    with pytest.raises(RunError, match=r"names the slice store .*, but its pixel settings have the fingerprint \w{16}"):
        run_store(run)


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[EnsembleRuns, SliceStore]:
    """A run with the store that it was trained on."""
    write_run(tmp_path, "here", MODEL, "seed0", 0)
    settings = PixelSettings(size=32)
    store = SliceStore(tmp_path / settings.fingerprint(), settings)
    write_store(store.root, SCANS, 32)
    joined = read(tmp_path)
    scans = replace(joined.first_run.scans(), pixels=stored_pixels(store, SCANS))
    change_record(tmp_path, f"here/{MODEL}/seed0", lambda record: record.update(scans=vars(scans)))
    return joined, store


@pytest.mark.parametrize("name", ["grey.npy", "lungs.npy", "lung_litres", "z_mm"])
def test_pixels_that_were_changed_since_training_are_refused(
    name: str, prepared: tuple[EnsembleRuns, SliceStore]
) -> None:
    joined, store = prepared
    joined.check_store(store)
    path = store.root / list(SCANS)[3] / name
    if name.endswith(".npy"):
        array = np.load(path)
        array[1, 2, 3] ^= 1
        path.unlink()  # it is a link to the file of others
        np.save(path, array)
    else:
        path = path.with_name("scan.json")
        path.write_text(
            path.read_text().replace('"lung_litres": ', '"lung_litres": 1')
            if name == "lung_litres"
            else path.read_text().replace("-2.0", "-2.5")
        )
    with pytest.raises((RunError, StoreError), match=r"changed since: the pixels of|npy is damaged \(its checksum"):
        joined.check_store(SliceStore(store.root, store.settings))


def test_no_flipped_bit_of_an_ensemble_is_read_as_another_value(tmp_path: Path) -> None:
    _, folder = write_study(tmp_path, learnt_from={"P1": "ab"}, training_counts={"CAP": 3}, values=("hu",))
    ensemble, path, refused = read_ensemble(tmp_path, "study", "two"), folder / "ensemble.json", 0
    for _, data in flipped(path.read_bytes(), 600):
        path.write_bytes(data)
        try:
            assert read_ensemble(tmp_path, "study", "two") == ensemble
        except RunError:
            refused += 1
    assert refused > 500
    write_ensemble(folder, ensemble)
    assert read_ensemble(tmp_path, "study", "two") == ensemble
