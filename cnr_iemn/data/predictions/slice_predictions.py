"""Slice predictions of one backbone for every scan of a cohort: the interface of stage 1 and stage 2."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.predictions.prediction_file import read_table, write_table
from cnr_iemn.data.predictions.slice_features import SliceFeatures
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import NO_CLASS, SCORE, VALIDATION, PredictionMetadata, probability_columns


@dataclass(frozen=True)
class Predictions:
    """One row for every slice of every scan.

    ``table``: columns of ``schemas.PREDICTION_COLUMNS``, then ``p_<class>`` in the order of ``metadata.classes`` and
    ``region_<k>``, both float32 in [0, 1], each set summing to 1; of a network with attention ``score``. ``features``:
    of the rows, where the run keeps them.
    """

    table: pd.DataFrame
    metadata: PredictionMetadata
    features: SliceFeatures | None = None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Class probabilities in row and class order, float32 [rows, classes]."""
        return self.table[probability_columns(self.metadata.classes)].to_numpy(dtype=np.float32)

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """Scores of the slices in row order, float32 [rows]; None of a network without attention."""
        return self.table[SCORE].to_numpy(dtype=np.float32) if SCORE in self.table.columns else None

    @property
    def scans(self) -> pd.DataFrame:
        """One row a scan in order of appearance, index scan_id: patient_id, split, fold, label and n_slices."""
        columns = ["patient_id", "split", "fold", "label", "n_slices"]
        return self.table.drop_duplicates("scan_id").set_index("scan_id")[columns]

    def with_class(self) -> "Predictions":
        """Return the rows of the scans whose class is known."""
        has_class = (self.table["label"] != NO_CLASS).to_numpy(dtype=bool)
        if has_class.all():
            return self
        features = None if self.features is None else self.features.select(has_class)
        return replace(self, table=self.table[has_class].reset_index(drop=True), features=features)

    @property
    def seen_patients(self) -> set[str]:
        """Patients with a slice that trained the network, by the metadata or by the rows."""
        rows = self.table["seen_in_training"] | self.table["scan_id"].isin(self.metadata.training_scan_ids)
        return set(self.table.loc[rows, "patient_id"])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions.parquet, whole or not at all. Raises RunError where ``read_predictions`` would."""
    notice = PHANTOM_NOTICE if predictions.metadata.phantom else None
    write_table(path, predictions.table, predictions.metadata, notice=notice)


def read_predictions(path: Path) -> Predictions:
    """Read and check the predictions.parquet of a run. Raises RunError as ``read_table`` does."""
    return Predictions(*read_table(path, PredictionMetadata))


def check_joinable(predictions: Mapping[str, Predictions]) -> None:
    """Check that the models' predictions fit into one ensemble and that no validation scan trained a network.

    ``predictions``: by model name, in ensemble order. All must agree in classes and their order, tag, seed, store,
    split and scans, and in every scan's slices, label, patient, split, fold and slice labels. Raises RunError naming
    two models and their difference.
    """
    if not predictions:
        raise RunError("No predictions were given. Name at least one model in `ensemble`.")
    for name, run in predictions.items():
        if run.metadata.model != name:
            raise RunError(
                f"The predictions given for {name} were made by {run.metadata.model}. Put each model's "
                "predictions.parquet back into its own folder, or run train.py again."
            )
        _check_held_out(run)
    (first_name, first), *rest = predictions.items()
    for name, run in rest:
        difference = _metadata_difference(first, run) or _scan_difference(first, run)
        if difference:
            raise RunError(
                f"{first_name} was predicted {difference[0]}, {name} {difference[1]}: they cannot be joined. Run "
                f"train.py for {name} again (overwrite=true) with the data settings, split and tag of {first_name}, or "
                f"leave {name} out of `ensemble`."
            )


def check_same_study(first: Predictions, second: Predictions) -> None:
    """Check that two runs with different tags belong to one study: classes, store, split, scans and labels.

    Raises RunError naming both and their difference.
    """
    renamed = replace(second, metadata=replace(second.metadata, tag=first.metadata.tag))
    difference = _metadata_difference(first, renamed) or _scan_difference(first, second)
    if difference:
        names = [f"{run.metadata.model}'s run {run.metadata.tag}" for run in (first, second)]
        raise RunError(
            f"{names[0]} was predicted {difference[0]}, {names[1]} {difference[1]}: they cannot be used together. Run "
            "train.py for the one that is wrong again (overwrite=true) with the data settings and split of the other."
        )


def _check_held_out(predictions: Predictions) -> None:
    scans, model = predictions.scans, predictions.metadata.model
    leaked = scans.index[(scans["split"] == VALIDATION) & scans["patient_id"].isin(predictions.seen_patients)]
    if len(leaked):
        raise RunError(
            f"{model} was trained on {_join(leaked)}, which the split holds out for validation (the scan itself or "
            "another of the same patient): its figures would be worthless. Run train.py for "
            f"{model} again on this split (overwrite=true)."
        )


def _metadata_difference(first: Predictions, second: Predictions) -> tuple[str, str] | None:
    phrases = {
        "classes": "for the classes {}",
        "phantom": "with phantom={}",
        "tag": "under tag {}",
        "seed": "with seed {}",
        "store": "on store {}",
        "split_sha256": "on split {}",
        "slice_labels": "with slice labels of {}",
        "scans_sha256": "from pixels, labels and sides of hash {}",
    }
    for field, phrase in phrases.items():
        values = getattr(first.metadata, field), getattr(second.metadata, field)
        if values[0] != values[1]:
            return phrase.format(values[0]), phrase.format(values[1])
    return None


def _scan_difference(first: Predictions, second: Predictions) -> tuple[str, str] | None:
    left, right = first.scans, second.scans
    only_left, only_right = left.index.difference(right.index), right.index.difference(left.index)
    if len(only_left):
        return f"on {_join(only_left)}", "without"
    if len(only_right):
        return f"without {_join(only_right)}", "with"
    right = right.loc[left.index]
    for name in left.columns:
        row, value, other = _first_difference(left[name], right[name])
        if row is not None:
            return f"with {name}={value} for scan {left.index[row]}", f"with {name}={other}"
    slices = [run.table.sort_values(["scan_id", "slice_index"]) for run in (first, second)]
    row, value, other = _first_difference(slices[0]["slice_label"], slices[1]["slice_label"])
    if row is not None:
        scan, index = slices[0][["scan_id", "slice_index"]].iloc[row]
        return f"with slice_label={value} for slice {index} of scan {scan}", f"with slice_label={other}"
    return None


def _first_difference(left: "pd.Series[Any]", right: "pd.Series[Any]") -> tuple[int | None, str, str]:
    """Return the first position at which two columns differ, and both values; two missing values are equal."""
    a, b = (column.astype("string").fillna("none").to_numpy() for column in (left, right))
    positions = np.flatnonzero(a != b)
    if len(positions) == 0:
        return None, "", ""
    row = int(positions[0])
    return row, str(a[row]), str(b[row])


def _join(names: "pd.Index[Any]", limit: int = 5) -> str:
    text = ", ".join(str(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{'scan' if len(names) == 1 else 'scans'} {text}{more}"
