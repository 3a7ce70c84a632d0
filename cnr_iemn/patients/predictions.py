"""Slice predictions of one backbone for every scan of a cohort: the file that joins stage 1 to stage 2."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.patients.parquet import read_parquet, write_parquet
from cnr_iemn.patients.prediction_checks import check_table
from cnr_iemn.records import (
    PREDICTION_COLUMNS,
    VALIDATION,
    PredictionMetadata,
    probability_columns,
    region_columns,
)
from cnr_iemn.registry import PHANTOM_NOTICE

_AGAIN = "Run train.py for this model, study and tag again (overwrite=true)."
_ARROW_TYPES = {"string": pa.string(), "Int64": pa.int64(), "int64": pa.int64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class Predictions:
    """One row for every slice of every scan.

    ``table``: columns of ``records.PREDICTION_COLUMNS``, then ``p_<class>`` in the order of ``metadata.classes`` and
    ``region_<k>``, both float32 in [0, 1], each set summing to 1.
    """

    table: pd.DataFrame
    metadata: PredictionMetadata

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Class probabilities in row and class order, float32 [rows, classes]."""
        return self.table[probability_columns(self.metadata.classes)].to_numpy(dtype=np.float32)

    @property
    def scans(self) -> pd.DataFrame:
        """One row a scan in order of appearance, index scan_id: patient_id, split, fold, label and n_slices."""
        columns = ["patient_id", "split", "fold", "label", "n_slices"]
        return self.table.drop_duplicates("scan_id").set_index("scan_id")[columns]

    @property
    def seen_patients(self) -> set[str]:
        """Patients of whom a slice has trained the network, by the metadata or by the rows."""
        seen = self.table["seen_in_training"] | self.table["scan_id"].isin(self.metadata.training_scan_ids)
        return set(self.table.loc[seen, "patient_id"])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions.parquet (zstd), whole or not at all. Raises RunError where ``read_predictions`` would."""
    metadata = predictions.metadata
    check_table(predictions.table, metadata, source=str(path))
    notice = {"notice": PHANTOM_NOTICE} if metadata.phantom else {}
    schema = _schema(metadata.classes, _count_regions(list(predictions.table.columns)))
    table = pa.Table.from_pandas(predictions.table, schema=schema, preserve_index=False)
    write_parquet(path, table, {**notice, **asdict(metadata)})


def read_predictions(path: Path) -> Predictions:
    """Read and check predictions.parquet.

    Raises RunError, naming the file, the scan and what to do, where the file is missing, damaged, of another schema
    version or lacks a column; where a scan misses a slice, has one twice, or carries two labels, splits or patients;
    where a class is unknown; or where probabilities are not finite, outside [0, 1] or do not sum to 1 within 0.001.
    """
    first = "Run train.py for this model, study and tag first."
    table, about = read_parquet(path, first=first, again=_AGAIN)
    metadata = _parse_metadata(about, path)
    _check_schema(table, metadata, path)
    dtypes = {name: PREDICTION_COLUMNS.get(name, "float32") for name in table.column_names}
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}.get)
    check_table(frame, metadata, source=str(path))
    return Predictions(frame.astype(dtypes), metadata)


def check_joinable(predictions: Mapping[str, Predictions]) -> None:
    """Check that the models' predictions can be joined into one ensemble and that no validation scan trained one.

    ``predictions``: by model name, in ensemble order. All must agree in classes and their order, tag, seed, store,
    split and scans, and in every scan's slices, label, patient, split, fold and slice labels. Raises RunError naming
    two models that differ and in what.
    """
    if not predictions:
        raise RunError("No predictions were given. Name at least one model in `ensemble`.")
    (first_name, first), *others = predictions.items()
    for name, other in predictions.items():
        if other.metadata.model != name:
            raise RunError(
                f"The predictions given for {name} were made by {other.metadata.model}. Put each model's "
                "predictions.parquet back into its own folder, or run train.py again."
            )
        _check_held_out(other)
    for name, other in others:
        difference = _metadata_difference(first, other) or _scan_difference(first, other)
        if difference:
            mine, theirs = difference
            raise RunError(
                f"{first_name} was predicted {mine}, {name} {theirs}: they cannot be joined. Run train.py for {name} "
                f"again (overwrite=true) with the data settings, split and tag of {first_name}, or leave {name} out of "
                "`ensemble`."
            )


def check_same_study(first: Predictions, other: Predictions) -> None:
    """Check that two runs that differ in their tag are of one study: classes, store, split, scans and labels.

    Raises RunError naming both and in what they differ.
    """
    retagged = replace(other, metadata=replace(other.metadata, tag=first.metadata.tag))
    difference = _metadata_difference(first, retagged) or _scan_difference(first, other)
    if difference:
        mine, theirs = difference
        here, there = (f"{each.metadata.model}'s run {each.metadata.tag}" for each in (first, other))
        raise RunError(
            f"{here} was predicted {mine}, {there} {theirs}: they cannot be used together. Run train.py for the one "
            "that is wrong again (overwrite=true) with the data settings and split of the other."
        )


def _check_held_out(predictions: Predictions) -> None:
    scans, model = predictions.scans, predictions.metadata.model
    leaked = scans.index[(scans["split"] == VALIDATION) & scans["patient_id"].isin(predictions.seen_patients)]
    if len(leaked):
        raise RunError(
            f"{model} was trained on {_listed(leaked)}, which the split holds out for validation (the scan itself or "
            "another of the same patient): its figures would be worthless. Run train.py for "
            f"{model} again on this split (overwrite=true)."
        )


def _metadata_difference(first: Predictions, other: Predictions) -> tuple[str, str] | None:
    phrases = {
        "classes": "for the classes {}",
        "phantom": "with phantom={}",
        "tag": "under tag {}",
        "seed": "with seed {}",
        "store": "on store {}",
        "split_sha256": "on split {}",
    }
    for field, phrase in phrases.items():
        mine, theirs = getattr(first.metadata, field), getattr(other.metadata, field)
        if mine != theirs:
            return phrase.format(mine), phrase.format(theirs)
    return None


def _scan_difference(first: Predictions, other: Predictions) -> tuple[str, str] | None:
    mine, theirs = first.scans, other.scans
    only_mine, only_theirs = mine.index.difference(theirs.index), theirs.index.difference(mine.index)
    if len(only_mine):
        return f"on {_listed(only_mine)}", "without"
    if len(only_theirs):
        return f"without {_listed(only_theirs)}", "with"
    theirs = theirs.loc[mine.index]
    for name in mine.columns:
        row, here, there = _first_difference(mine[name], theirs[name])
        if row is not None:
            return f"with {name}={here} for scan {mine.index[row]}", f"with {name}={there}"
    slices = [each.table.sort_values(["scan_id", "slice_index"]) for each in (first, other)]
    row, here, there = _first_difference(slices[0]["slice_label"], slices[1]["slice_label"])
    if row is not None:
        scan, index = slices[0][["scan_id", "slice_index"]].iloc[row]
        return f"with slice_label={here} for slice {index} of scan {scan}", f"with slice_label={there}"
    return None


def _first_difference(mine: "pd.Series[Any]", theirs: "pd.Series[Any]") -> tuple[int | None, str, str]:
    """Return the first position at which two columns differ and both values; two missing values are equal."""
    a, b = (column.astype("string").fillna("none").to_numpy() for column in (mine, theirs))
    different = np.flatnonzero(a != b)
    if len(different) == 0:
        return None, "", ""
    row = int(different[0])
    return row, str(a[row]), str(b[row])


def _listed(names: "pd.Index[Any]", limit: int = 5) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{'scan' if len(names) == 1 else 'scans'} {shown}{more}"


def _parse_metadata(about: dict[str, Any], path: Path) -> PredictionMetadata:
    about.pop("notice", None)
    try:
        tuples = {key: tuple(about[key]) for key in ("classes", "training_scan_ids")}
        return PredictionMetadata(**{**about, **tuples})
    except (TypeError, KeyError) as error:
        raise RunError(f"{path} has damaged metadata ({error}). {_AGAIN}") from error


def _count_regions(columns: list[str]) -> int:
    return sum(name.startswith("region_") for name in columns)


def _schema(classes: tuple[str, ...], n_regions: int) -> pa.Schema:
    fixed = [(name, _ARROW_TYPES[dtype]) for name, dtype in PREDICTION_COLUMNS.items()]
    probabilities = probability_columns(classes) + region_columns(n_regions)
    return pa.schema(fixed + [(name, pa.float32()) for name in probabilities])


def _check_schema(table: pa.Table, metadata: PredictionMetadata, path: Path) -> None:
    expected = _schema(metadata.classes, _count_regions(table.column_names))
    if table.schema.remove_metadata().equals(expected):
        return
    wanted, found = ({field.name: str(field.type) for field in schema} for schema in (expected, table.schema))
    wrong = [
        f"{name} is {found.get(name, 'missing')}, not {kind}"
        for name, kind in wanted.items()
        if found.get(name) != kind
    ]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    raise RunError(
        f"{path}: wrong columns: {'; '.join(wrong) or 'another order'}. Run train.py for {metadata.model} with "
        f"tag={metadata.tag} again (overwrite=true)."
    )
