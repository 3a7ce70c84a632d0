import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.predictions.parquet import METADATA_KEY, write_parquet
from cnr_iemn.data.predictions.slice_predictions import Predictions, read_predictions, write_predictions
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import PREDICTION_COLUMNS
from cnr_iemn.utils import atomic_io
from tests.builders import FakeScan, make_predictions

SCANS = {
    "Normal-000": FakeScan("Normal", n_slices=6, slice_labelled=False),
    "P001": FakeScan("COVID-19", n_slices=7, fold=2),
    "cap001": FakeScan("CAP", "validation", n_slices=5, patient_id="anna"),
}


@pytest.fixture
def predictions() -> Predictions:
    return make_predictions(scans=SCANS)


def write_unchecked(path: Path, table: pd.DataFrame, metadata: dict[str, object]) -> None:
    """Write what `write_predictions` would refuse, column types as they would be."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    types = {"scan_id": pa.string(), "patient_id": pa.string(), "split": pa.string(), "fold": pa.int64()}
    types |= {"label": pa.string(), "slice_label": pa.string()}
    schema = pa.schema([(field.name, types.get(field.name, field.type)) for field in arrow.schema])
    write_parquet(path, arrow.cast(schema), metadata)


def test_what_is_written_is_read_back_with_the_contract_s_dtypes(tmp_path: Path, predictions: Predictions) -> None:
    path = tmp_path / "run" / "predictions.parquet"
    write_predictions(path, predictions)
    back = read_predictions(path)
    assert back.metadata == predictions.metadata
    pd.testing.assert_frame_equal(back.table, predictions.table.astype(back.table.dtypes.to_dict()))
    assert {name: str(back.table[name].dtype) for name in PREDICTION_COLUMNS} == PREDICTION_COLUMNS
    assert set(map(str, back.table.dtypes[len(PREDICTION_COLUMNS) :])) == {"float32"}
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_plain_python_columns_are_written_with_the_same_dtypes(tmp_path: Path, predictions: Predictions) -> None:
    plain = predictions.table.astype(object).astype(dict.fromkeys(predictions.table.columns[10:], "float64"))
    plain["slice_label"] = [None if pd.isna(value) else value for value in plain["slice_label"]]
    write_predictions(tmp_path / "plain", Predictions(plain, predictions.metadata))
    write_predictions(tmp_path / "typed", predictions)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "typed").read_bytes()


def test_scans_and_probabilities(predictions: Predictions) -> None:
    assert predictions.scans.index.tolist() == list(SCANS)
    assert predictions.scans["n_slices"].tolist() == [6, 7, 5]
    assert predictions.scans.loc["cap001", "patient_id"] == "anna"
    assert predictions.scans["fold"].tolist() == [pd.NA, 2, pd.NA]
    assert predictions.probabilities.shape == (18, 3)
    np.testing.assert_array_equal(predictions.probabilities[:, 2], predictions.table["p_CAP"])


@pytest.mark.parametrize("phantom", [True, False])
def test_files_of_phantom_studies_carry_the_notice(tmp_path: Path, phantom: bool) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, make_predictions(scans=SCANS, phantom=phantom))
    entry = json.loads(pq.read_schema(path).metadata[METADATA_KEY])
    assert entry.get("notice") == (PHANTOM_NOTICE if phantom else None)
    assert read_predictions(path).metadata.phantom is phantom


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, predictions: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, predictions)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic_io.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(path, make_predictions(scans=SCANS, seed=1))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.parquet"]


def _set(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


FAULTS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing slice": (
        lambda t: t.drop(index=8),
        "scan P001: 6 of 7 slices are there, the first missing one is slice 2",
    ),
    "missing last slice": (lambda t: t.drop(index=17), "scan cap001: 4 of 5 slices .* slice 4"),
    "duplicate slice": (_set("slice_index", 9, 2), "scan P001: slice 2 occurs more than once"),
    "foreign slice": (_set("slice_index", 12, 7), "scan P001: slice 7 cannot be one of 7 slices"),
    "negative slice": (_set("slice_index", 0, -1), "scan Normal-000: slice -1 cannot be"),
    "not finite": (_set("p_CAP", 7, np.nan), "scan P001, slice 1: class probabilities are not finite"),
    "infinite": (_set("region_3", 7, np.inf), "scan P001, slice 1: region probabilities are not finite"),
    "outside": (_set("p_Normal", 13, -0.2), "scan cap001, slice 0: class probabilities lie outside 0 to 1"),
    "sum": (_set("p_Normal", 13, 0.999), "scan cap001, slice 0: class probabilities do not sum to 1"),
    "two labels": (_set("label", 8, "CAP"), r"scan P001 has more than one label \(COVID-19, CAP\)"),
    "two splits": (_set("split", 8, "validation"), "scan P001 has more than one split"),
    "two patients": (_set("patient_id", 8, "bert"), "scan P001 has more than one patient_id"),
    "two folds": (_set("fold", 8, pd.NA), "scan P001 has more than one fold"),
    "unknown class": (
        _set("label", slice(0, 5), "flu"),
        "scan Normal-000: label is 'flu', which is not one of Normal, COV",
    ),
    "unknown slice class": (_set("slice_label", 9, "flu"), "scan P001: slice_label is 'flu'"),
    "unknown split": (_set("split", slice(0, 5), "test"), "scan Normal-000: split is 'test'"),
    "no patient": (_set("patient_id", 4, None), "scan Normal-000: patient_id is missing in 1 rows"),
    "empty": (lambda t: t.iloc[:0], "holds no slice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_tables_are_refused_on_reading_and_on_writing(
    tmp_path: Path, predictions: Predictions, fault: str
) -> None:
    change, message = FAULTS[fault]
    path = tmp_path / "predictions.parquet"
    faulty = change(predictions.table.copy()).reset_index(drop=True)
    write_unchecked(path, faulty, dataclasses.asdict(predictions.metadata))
    with pytest.raises(RunError, match=message) as reading:
        read_predictions(path)
    assert str(path) in str(reading.value)
    assert "Run train.py for resnext50 with tag=seed0 again" in str(reading.value)
    with pytest.raises(RunError, match=message):
        write_predictions(tmp_path / "new.parquet", Predictions(faulty, predictions.metadata))
    assert not (tmp_path / "new.parquet").exists()


def test_probabilities_may_miss_one_by_rounding(tmp_path: Path, predictions: Predictions) -> None:
    table = predictions.table.copy()
    table[["p_Normal", "p_COVID-19", "p_CAP"]] *= np.float32(0.9991)
    write_predictions(tmp_path / "p", Predictions(table, predictions.metadata))
    assert len(read_predictions(tmp_path / "p").table) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="label"), "label is missing, not string"),
        (lambda t: t.drop(columns="p_CAP"), "p_CAP is missing, not float"),
        (lambda t: t.drop(columns="region_1"), "region_1 is missing"),
        (lambda t: t.assign(p_flu=np.float32(0)), "p_flu is unknown"),
        (lambda t: t.astype({"n_slices": "float64"}), "n_slices is double, not int64"),
        (lambda t: t[[*t.columns[1:], "scan_id"]], "another order"),
    ],
)
def test_wrong_columns_are_named(
    tmp_path: Path, predictions: Predictions, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    path = tmp_path / "predictions.parquet"
    write_unchecked(path, change(predictions.table), dataclasses.asdict(predictions.metadata))
    with pytest.raises(RunError, match=message):
        read_predictions(path)


def test_missing_damaged_foreign_and_newer_files_are_refused(tmp_path: Path, predictions: Predictions) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(RunError, match=r"no predictions at .*Run train.py"):
        read_predictions(path)
    write_predictions(path, predictions)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be read as parquet"):
        read_predictions(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RunError, match="not written by this program"):
        read_predictions(path)
    metadata = dataclasses.asdict(predictions.metadata)
    write_unchecked(path, predictions.table, {**metadata, "schema_version": 99})
    with pytest.raises(RunError, match="schema_version 99, this program reads 2"):
        read_predictions(path)
    del metadata["store"]
    write_unchecked(path, predictions.table, metadata)
    with pytest.raises(RunError, match=r"origin in .* is damaged.*store: Field required"):
        read_predictions(path)
