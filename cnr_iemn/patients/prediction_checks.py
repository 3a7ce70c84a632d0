"""What must hold for a table of slice predictions, checked before it is written and after it is read."""

import numpy as np
import pandas as pd

from cnr_iemn.errors import RunError
from cnr_iemn.records import PREDICTION_COLUMNS, TRAINING, VALIDATION, PredictionMetadata, probability_columns

_NULLABLE = ("fold", "slice_label")
_PER_SCAN = ("patient_id", "split", "fold", "seen_in_training", "used_for_selection", "label", "n_slices")
_TOLERANCE = 1e-3


def check_table(table: pd.DataFrame, metadata: PredictionMetadata, *, source: str) -> None:
    """Check every row and every scan of a table of ``patients.predictions.Predictions``.

    ``source``: what the message names, a file as a rule. Raises RunError with the first scan at fault.
    """
    problem = (
        _missing_columns(table, metadata)
        or _missing_values(table)
        or _unknown_values(table, metadata)
        or _contradictions(table)
        or wrong_slices(table)
        or wrong_probabilities(table, probability_columns(metadata.classes), "class probabilities")
        or wrong_probabilities(table, _regions(table), "region probabilities")
    )
    if problem:
        raise RunError(
            f"{source}: {problem}. Predictions are never repaired: run train.py for {metadata.model} with "
            f"tag={metadata.tag} again (overwrite=true)."
        )


def _regions(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith("region_")]


def _first_scan(table: pd.DataFrame, wrong: "pd.Series[bool]") -> str:
    """Name the scan of the first wrong row."""
    return str(table["scan_id"].to_numpy()[int(np.argmax(wrong.to_numpy()))])


def _missing_columns(table: pd.DataFrame, metadata: PredictionMetadata) -> str | None:
    needed = (*PREDICTION_COLUMNS, *probability_columns(metadata.classes))
    missing = [name for name in needed if name not in table.columns]
    if missing:
        return f"the columns {', '.join(missing)} are missing"
    return None if len(table) else "it holds no slice"


def _missing_values(table: pd.DataFrame) -> str | None:
    for name in PREDICTION_COLUMNS:
        empty = table[name].isna()
        if name not in _NULLABLE and empty.any():
            return f"scan {_first_scan(table, empty)}: {name} is missing in {int(empty.sum())} rows"
    return None


def _unknown_values(table: pd.DataFrame, metadata: PredictionMetadata) -> str | None:
    allowed = {
        "split": (TRAINING, VALIDATION, ""),
        "label": (*metadata.classes, ""),
        "slice_label": metadata.classes,
    }
    for name, values in allowed.items():
        unknown = table[name].notna() & ~table[name].isin(values)
        if unknown.any():
            value = table[name][unknown].iloc[0]
            known = ", ".join(each for each in values if each)
            return f"scan {_first_scan(table, unknown)}: {name} is '{value}', which is not one of {known}"
    return None


def _contradictions(table: pd.DataFrame) -> str | None:
    counts = table.groupby("scan_id", sort=False)[list(_PER_SCAN)].nunique(dropna=False)
    for name in _PER_SCAN:
        several = counts.index[counts[name] > 1]
        if len(several):
            values = ", ".join(str(value) for value in table.loc[table["scan_id"] == several[0], name].unique())
            return f"scan {several[0]} has more than one {name} ({values})"
    return None


def wrong_slices(table: pd.DataFrame) -> str | None:
    """Find the first scan whose slices are not 0 to n_slices - 1, each once."""
    twice = table.duplicated(["scan_id", "slice_index"])
    if twice.any():
        return f"scan {_first_scan(table, twice)}: slice {table['slice_index'][twice].iloc[0]} occurs more than once"
    foreign = (table["slice_index"] < 0) | (table["slice_index"] >= table["n_slices"])
    if foreign.any():
        first = table[foreign].iloc[0]
        return f"scan {first['scan_id']}: slice {first['slice_index']} cannot be one of {first['n_slices']} slices"
    scans = table.groupby("scan_id", sort=False)["n_slices"].agg(["size", "first"])
    short = scans[scans["size"] != scans["first"]]
    if len(short):
        scan_id, (size, wanted) = short.index[0], short.iloc[0]
        there = set(table.loc[table["scan_id"] == scan_id, "slice_index"])
        absent = next(index for index in range(wanted) if index not in there)
        return f"scan {scan_id}: {size} of {wanted} slices are there, the first missing one is slice {absent}"
    return None


def wrong_probabilities(table: pd.DataFrame, columns: list[str], name: str) -> str | None:
    """Find the first row in which the probabilities of these columns, called ``name``, are none."""
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
