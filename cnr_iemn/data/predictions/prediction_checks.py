"""Checks of slice predictions, before they are written and after they are read."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.schemas import (
    NEW_SCAN_COLUMNS,
    PREDICTION_COLUMNS,
    SCORE,
    TRAINING,
    VALIDATION,
    NetworkId,
    NewScansMetadata,
    PredictionMetadata,
    channel_columns,
    probability_columns,
)

FIXED_COLUMNS: dict[type, dict[str, str]] = {PredictionMetadata: PREDICTION_COLUMNS, NewScansMetadata: NEW_SCAN_COLUMNS}
"""Columns and dtypes that do not depend on the classes, by the type of the metadata."""
_NULLABLE = ("fold", "slice_label", "z_mm")
_PER_SCAN = ("patient_id", "split", "fold", "seen_in_training", "used_for_selection", "label", "n_slices")
_TOLERANCE = 1e-3


def table_problem(table: pd.DataFrame, metadata: PredictionMetadata | NewScansMetadata) -> str | None:
    """Return the first fault of a table, of its columns, rows and scans; None where there is none."""
    fixed = FIXED_COLUMNS[type(metadata)]
    numbers = probability_columns(metadata.classes)
    if isinstance(metadata, NewScansMetadata):
        numbers = channel_columns(metadata)
    elif SCORE in table.columns:
        numbers = [*numbers, SCORE]
    value_columns = [name for name in numbers if not name.startswith("p_")]
    problem = _missing_columns(table, [*fixed, *numbers]) or _missing_values(table, [*fixed, *value_columns])
    if problem:
        return problem
    if isinstance(metadata, NewScansMetadata):
        networks, classes = metadata.networks, metadata.classes
        return _network_problem(table, networks) or _slice_problem(_as_scans(table, networks), classes)
    return (
        _unknown_values(table, metadata.classes)
        or _contradictions(table)
        or _slice_problem(table, metadata.classes)
        or _probability_problem(table, region_names(table.columns), "region probabilities")
    )


def region_names(columns: Iterable[str]) -> list[str]:
    """Return the names of the region probabilities among the columns."""
    return [name for name in columns if name.startswith("region_")]


def network_numbers(table: pd.DataFrame, networks: Sequence[NetworkId]) -> NDArray[np.int64]:
    """Return each row's position among the networks, int64 [rows]; -1 where no network matches."""
    numbers = {(network.model, network.fold): k for k, network in enumerate(networks)}
    folds = (None if pd.isna(fold) else int(fold) for fold in table["fold"])
    pairs = zip(table["model"], folds, strict=True)
    return np.array([numbers.get(pair, -1) for pair in pairs], dtype=np.int64)


def _as_scans(table: pd.DataFrame, networks: Sequence[NetworkId]) -> pd.DataFrame:
    """Return the table with each network's rows of a scan as a scan of their own."""
    names = [f"({n.model})" if n.fold is None else f"({n.model}, fold {n.fold})" for n in networks]
    scan_ids = table["scan_id"].astype(str).str.cat(np.array(names)[network_numbers(table, networks)], " ")
    return table.assign(scan_id=scan_ids)


def _first_scan(table: pd.DataFrame, wrong: "pd.Series[bool]") -> str:
    """Return the scan of the first wrong row."""
    return str(table["scan_id"].to_numpy()[int(np.argmax(wrong.to_numpy()))])


def _missing_columns(table: pd.DataFrame, required: Sequence[str]) -> str | None:
    missing = [name for name in required if name not in table.columns]
    if missing:
        return f"the columns {', '.join(missing)} are missing"
    return None if len(table) else "it holds no slice"


def _missing_values(table: pd.DataFrame, columns: Iterable[str]) -> str | None:
    for name in columns:
        empty = table[name].isna()
        if name not in _NULLABLE and empty.any():
            return f"scan {_first_scan(table, empty)}: {name} is missing in {int(empty.sum())} rows"
    return None


def _network_problem(table: pd.DataFrame, networks: Sequence[NetworkId]) -> str | None:
    numbers = network_numbers(table, networks)
    if (numbers < 0).any():
        row = table.iloc[int(np.argmax(numbers < 0))]
        return (
            f"scan {row['scan_id']} is predicted by {row['model']}, fold {row['fold']}, which is none of the networks "
            "that the file names"
        )
    scans = table.assign(network=numbers).groupby("scan_id", sort=False)[["network", "n_slices"]].nunique()
    incomplete = scans.index[(scans["network"] != len(networks)) | (scans["n_slices"] != 1)]
    if len(incomplete):
        return (
            f"scan {incomplete[0]} is not predicted by each of the {len(networks)} networks that the file names, for "
            "the same slices"
        )
    return None


def _unknown_values(table: pd.DataFrame, classes: Sequence[str]) -> str | None:
    choices = {"split": (TRAINING, VALIDATION, ""), "label": (*classes, ""), "slice_label": classes}
    for name, values in choices.items():
        unknown = table[name].notna() & ~table[name].isin(values)
        if unknown.any():
            value = table[name][unknown].iloc[0]
            names = ", ".join(filter(None, values))
            return f"scan {_first_scan(table, unknown)}: {name} is '{value}', which is not one of {names}"
    return None


def _contradictions(table: pd.DataFrame) -> str | None:
    counts = table.groupby("scan_id", sort=False)[list(_PER_SCAN)].nunique(dropna=False)
    for name in _PER_SCAN:
        scans = counts.index[counts[name] > 1]
        if len(scans):
            values = ", ".join(str(value) for value in table.loc[table["scan_id"] == scans[0], name].unique())
            return f"scan {scans[0]} has more than one {name} ({values})"
    return None


def _slice_problem(table: pd.DataFrame, classes: Sequence[str]) -> str | None:
    """Return the first fault of slice numbers (each of 0 to n_slices - 1 once) or of class probabilities."""
    duplicate = table.duplicated(["scan_id", "slice_index"])
    if duplicate.any():
        index = table["slice_index"][duplicate].iloc[0]
        return f"scan {_first_scan(table, duplicate)}: slice {index} occurs more than once"
    foreign = (table["slice_index"] < 0) | (table["slice_index"] >= table["n_slices"])
    if foreign.any():
        first = table[foreign].iloc[0]
        return f"scan {first['scan_id']}: slice {first['slice_index']} cannot be one of {first['n_slices']} slices"
    scans = table.groupby("scan_id", sort=False)["n_slices"].agg(["size", "first"])
    short = scans[scans["size"] != scans["first"]]
    if len(short):
        scan_id, (size, n_slices) = short.index[0], short.iloc[0]
        indices = set(table.loc[table["scan_id"] == scan_id, "slice_index"])
        missing = next(index for index in range(n_slices) if index not in indices)
        return f"scan {scan_id}: {size} of {n_slices} slices are there, the first missing one is slice {missing}"
    return _probability_problem(table, probability_columns(list(classes)), "class probabilities")


def _probability_problem(table: pd.DataFrame, columns: list[str], name: str) -> str | None:
    """Return the first row in which these columns are no probabilities. ``name``: of the columns in the message."""
    if not columns:
        return None
    values = table[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    faults = {
        "are not finite": ~np.isfinite(values).all(axis=1),
        "lie outside 0 to 1": ((values < 0) | (values > 1)).any(axis=1),
        "do not sum to 1": np.abs(values.sum(axis=1) - 1) > _TOLERANCE,
    }
    for fault, rows in faults.items():
        if rows.any():
            row = int(np.argmax(rows))
            scan_id, index = table[["scan_id", "slice_index"]].iloc[row]
            return f"scan {scan_id}, slice {index}: {name} {fault} ({', '.join(f'{value:g}' for value in values[row])})"
    return None
