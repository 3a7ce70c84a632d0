"""predictions.parquet of new scans: what goes in comes out, and scores as the study's own predictions would."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnr_iemn.constants import PHANTOM_NOTICE, PHANTOM_SCANS_NOTICE, SPGC_CLASSES
from cnr_iemn.data.predictions.parquet import METADATA_KEY, write_parquet
from cnr_iemn.data.predictions.slice_predictions import read_predictions, write_predictions
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import NEW_SCAN_COLUMNS
from cnr_iemn.stage2.group_features import features_of_sets, group_features
from cnr_iemn.stage2.new_scans import NewScans, read_new_scans, write_new_scans
from tests.builders import make_predictions, make_scans
from tests.new_scans import MODELS, make_new_scans

SCANS = make_scans(0, 2, n_slices=18)  # fewer slices than groups, too


@pytest.mark.parametrize("folds", [(None,), (0, 1, 2)])
def test_what_is_read_is_what_was_written(folds: tuple[int | None, ...], tmp_path: Path) -> None:
    new = make_new_scans(SCANS, folds=folds, refused={"T1_009": "T1_009: no air"})
    write_new_scans(tmp_path / "new.parquet", new)
    found = read_new_scans(tmp_path / "new.parquet")
    assert found.metadata == new.metadata
    assert list(found.scans) == list(SCANS)
    for scan_id, scan in new.scans.items():
        again = found.scans[scan_id]
        assert np.array_equal(again.networks, scan.networks)
        assert np.array_equal(again.z_mm, scan.z_mm)
        assert (again.phantom, again.grey_sha256) == (scan.phantom, scan.grey_sha256)
    table = pd.read_parquet(tmp_path / "new.parquet")
    assert list(table.columns) == [*NEW_SCAN_COLUMNS, *(f"p_{name}" for name in SPGC_CLASSES)]
    assert len(table) == len(folds) * len(MODELS) * sum(scan.n_slices for scan in SCANS.values())


@pytest.mark.parametrize("folds", [(None,), (0, 1)])
def test_features_are_those_of_the_same_predictions_in_a_study(folds: tuple[int | None, ...]) -> None:
    new = make_new_scans(SCANS, folds=folds)
    tables = features_of_sets(new.sets, new.models, SPGC_CLASSES)
    assert len(tables) == len(folds)
    for fold, features in zip(folds, tables, strict=True):
        seed = 100 * (fold or 0)
        wanted = group_features({model: make_predictions(model, SCANS, seed=seed, skill=0.8) for model in MODELS})
        pd.testing.assert_frame_equal(features, wanted, check_exact=True, check_names=False)


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    new = make_new_scans(SCANS, folds=(0, 1))
    write_new_scans(path, new)
    table = pq.read_table(path)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    write_parquet(path, shuffled, json.loads(table.schema.metadata[METADATA_KEY]))
    found = read_new_scans(path)
    assert all(np.array_equal(found.scans[scan_id].networks, scan.networks) for scan_id, scan in new.scans.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a slice", r"scan Normal-000 \(resnext50\): 17 of 18 slices are there, the first missing one is slice 3"),
        ("twice", r"scan Normal-000 \(resnext50\): slice 3 occurs more than once"),
        ("a network", r"scan Normal-000 is not predicted by each of the 2 networks"),
        ("another network", r"scan Normal-000 is predicted by resnext50, fold 4, which is none of the networks"),
        ("probability", "scan Normal-000 .*, slice 3: class probabilities do not sum to 1"),
        ("column", r"wrong columns: z_mm is missing, not double\. Run predict\.py on these scans again"),
        ("nothing", "holds no slice"),
        ("origin", "origin in .* is damaged.* Run predict.py on these scans again"),
    ],
)
def test_what_is_not_whole_is_refused(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    write_new_scans(path, make_new_scans(SCANS))
    table = pq.read_table(path)
    rows = table.to_pandas()
    third = (rows["scan_id"] == "Normal-000") & (rows["model"] == "resnext50") & (rows["slice_index"] == 3)
    if change == "a slice":
        table = table.filter((~third).to_numpy())
    elif change == "twice":
        table = table.take([*range(len(rows)), int(np.argmax(third))])
    elif change == "a network":
        table = table.filter(~((rows["scan_id"] == "Normal-000") & (rows["model"] == "resnext50")).to_numpy())
    elif change == "another network":
        folds = pa.array([4] + [None] * (len(rows) - 1), pa.int64())
        table = table.set_column(table.schema.get_field_index("fold"), table.schema.field("fold"), [folds])
    elif change == "probability":
        values = rows["p_CAP"].where(~third, 2.0 - rows["p_CAP"]).clip(0, 1).astype("float32")
        table = table.set_column(table.schema.get_field_index("p_CAP"), table.schema.field("p_CAP"), [values])
    elif change == "column":
        table = table.drop_columns("z_mm")
    elif change == "nothing":
        table = table.slice(0, 0)
    else:
        table = table.replace_schema_metadata({METADATA_KEY: b'{"schema_version": 2, "kind": "new scans"}'})
    write_parquet(path, table, json.loads(table.schema.metadata[METADATA_KEY]))
    with pytest.raises(RunError, match=message):
        read_new_scans(path)


def test_the_two_kinds_of_predictions_are_not_taken_for_each_other(tmp_path: Path) -> None:
    write_predictions(tmp_path / "own.parquet", make_predictions())
    with pytest.raises(RunError, match=r"holds a study's own scans, not new ones"):
        read_new_scans(tmp_path / "own.parquet")
    write_new_scans(tmp_path / "new.parquet", make_new_scans(SCANS))
    with pytest.raises(RunError, match=r"holds new scans, not a study's own"):
        read_predictions(tmp_path / "new.parquet")


def test_phantoms_say_so_on_either_side(tmp_path: Path) -> None:
    def notice(new: NewScans) -> object:
        write_new_scans(tmp_path / "new.parquet", new)
        return b"phantom s" in (pq.read_schema(tmp_path / "new.parquet").metadata[METADATA_KEY]) and new.notice

    assert not notice(make_new_scans(SCANS))
    assert notice(make_new_scans(SCANS, phantom=True)) == PHANTOM_NOTICE
    assert notice(make_new_scans(SCANS, phantom_scans=True)) == PHANTOM_SCANS_NOTICE
    assert read_new_scans(tmp_path / "new.parquet").notice == PHANTOM_SCANS_NOTICE
