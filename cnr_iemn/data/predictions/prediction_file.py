"""predictions.parquet: the reader and the writer of all slice predictions.

A file holds a study's own scans, predicted by one network (``PredictionMetadata``), or new scans, predicted by every
network of an ensemble (``NewScansMetadata``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
from typing_extensions import TypedDict

from cnr_iemn.data.predictions.parquet import read_parquet, write_parquet_stream
from cnr_iemn.data.predictions.prediction_checks import FIXED_COLUMNS, region_names, table_problem
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import (
    NEW_SCANS,
    SCORE,
    NewScansMetadata,
    PredictionMetadata,
    channel_columns,
    probability_columns,
    region_columns,
)
from cnr_iemn.utils.json_io import parse_json

Metadata = TypeVar("Metadata", PredictionMetadata, NewScansMetadata)

_ARROW_TYPES = {
    "string": pa.string(),
    "Int64": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


class _Kind(NamedTuple):
    """A kind of predictions. ``name``: in the metadata. The others are sentences for messages.

    ``first``, ``again``: how to make a missing or a damaged file. ``mistake``: on a file of the other kind.
    """

    name: str | None
    first: str
    again: str
    mistake: str


_KINDS: dict[type, _Kind] = {
    PredictionMetadata: _Kind(
        None,
        "Run train.py for this model, study and tag first.",
        "Run train.py for this model, study and tag again (overwrite=true).",
        "holds new scans, not a study's own: those are scored by aggregate.py with evaluate=. Copy the "
        "predictions.parquet of the run back, or train it again (overwrite=true).",
    ),
    NewScansMetadata: _Kind(
        NEW_SCANS,
        "Run predict.py on the scans first.",
        "Run predict.py on these scans again.",
        "holds a study's own scans, not new ones: those are scored by aggregate.py without evaluate. Give the "
        "predictions.parquet that predict.py has written.",
    ),
}


class _NamedKind(TypedDict, total=False):
    kind: str


def write_table(
    path: Path, table: pd.DataFrame, metadata: PredictionMetadata | NewScansMetadata, *, notice: str | None
) -> None:
    """Write predictions.parquet, whole or not at all.

    Args:
        path: The file.
        table: The fixed columns, then ``p_<class>`` and, of a study's own scans, ``region_<k>`` and any
            ``score``, of others the rest of ``channel_columns``.
        metadata: Its origin.
        notice: On synthetic scans; None for none.

    Raises:
        RunError: ``read_table`` would refuse the file.
    """
    write_tables(path, [table], metadata, notice=notice)


def write_tables(
    path: Path, tables: Iterable[pd.DataFrame], metadata: PredictionMetadata | NewScansMetadata, *, notice: str | None
) -> None:
    """Write tables, each of whole scans, as ``write_table`` writes one of all; a million rows are in memory."""
    head = {} if notice is None else {"notice": notice}
    arrows = (_arrow_table(table, metadata, path) for table in tables)
    write_parquet_stream(path, arrows, {**head, **asdict(metadata)})


def _arrow_table(table: pd.DataFrame, metadata: PredictionMetadata | NewScansMetadata, path: Path) -> pa.Table:
    _check_table(table, metadata, path)
    return pa.Table.from_pandas(table, schema=_schema(metadata, list(table.columns)), preserve_index=False)


def read_table(path: Path, shape: type[Metadata]) -> tuple[pd.DataFrame, Metadata]:
    """Read and check predictions.parquet.

    Args:
        path: The file.
        shape: PredictionMetadata or NewScansMetadata.

    Returns:
        The table with the dtypes of the columns, probabilities float32, and its origin.

    Raises:
        RunError: The file is missing, damaged, of the other kind or another schema version; columns are wrong or
            values missing; a scan lacks a network or a slice, has one twice, or carries two labels, splits or patients;
            a class is unknown; or probabilities are not finite, outside [0, 1] or do not sum to 1 within 0.001.
    """
    kind = _KINDS[shape]
    arrow, origin = read_parquet(path, first=kind.first, again=kind.again)
    source = f"The origin in {path}"
    if parse_json(origin, _NamedKind, source=source, again=kind.again, extra="ignore").get("kind") != kind.name:
        raise RunError(f"{path} {kind.mistake}")
    metadata = parse_json(origin, shape, source=source, again=kind.again)
    _check_schema(arrow, metadata, path)
    table = arrow.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}.get)
    _check_table(table, metadata, path)
    return table.astype({name: FIXED_COLUMNS[shape].get(name, "float32") for name in arrow.column_names}), metadata


def _schema(metadata: PredictionMetadata | NewScansMetadata, columns: Sequence[str]) -> pa.Schema:
    fixed = [(name, _ARROW_TYPES[dtype]) for name, dtype in FIXED_COLUMNS[type(metadata)].items()]
    if isinstance(metadata, NewScansMetadata):
        numbers = channel_columns(metadata)
    else:
        score = [SCORE] if SCORE in columns else []
        numbers = [*probability_columns(metadata.classes), *region_columns(len(region_names(columns))), *score]
    return pa.schema(fixed + [(name, pa.float32()) for name in numbers])


def _check_schema(table: pa.Table, metadata: PredictionMetadata | NewScansMetadata, path: Path) -> None:
    schema = _schema(metadata, table.column_names)
    if table.schema.remove_metadata().equals(schema):
        return
    expected, actual = ({field.name: str(field.type) for field in columns} for columns in (schema, table.schema))
    wrong = [
        f"{name} is {actual.get(name, 'missing')}, not {kind}"
        for name, kind in expected.items()
        if actual.get(name) != kind
    ]
    wrong += [f"{name} is unknown" for name in actual if name not in expected]
    raise RunError(f"{path}: wrong columns: {'; '.join(wrong) or 'another order'}. {_remedy(metadata)}")


def _remedy(metadata: PredictionMetadata | NewScansMetadata) -> str:
    if isinstance(metadata, NewScansMetadata):
        return _KINDS[NewScansMetadata].again
    return f"Run train.py for {metadata.model} with tag={metadata.tag} again (overwrite=true)."


def _check_table(table: pd.DataFrame, metadata: PredictionMetadata | NewScansMetadata, path: Path) -> None:
    problem = table_problem(table, metadata)
    if problem:
        raise RunError(f"{path}: {problem}. Predictions are never repaired. {_remedy(metadata)}")
