"""Slice predictions of an ensemble's networks for new scans: what scores them again without the networks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.patients.group_features import features_of_sets
from cnr_iemn.patients.parquet import read_parquet, write_parquet
from cnr_iemn.patients.prediction_checks import wrong_probabilities, wrong_slices
from cnr_iemn.patients.slice_sets import SliceSets, by_fold
from cnr_iemn.records import NEW_SCAN_COLUMNS, NEW_SCANS, NetworkId, NewScansMetadata, probability_columns
from cnr_iemn.registry import notice_for

_AGAIN = "Run predict.py on these scans again."
_ARROW_TYPES = {
    "string": pa.string(),
    "Int64": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


@dataclass(frozen=True)
class NewScan:
    """One scan as an ensemble's networks see it, head first; ``phantom``, ``grey_sha256``: as ``StoredScan`` has them.

    ``z_mm``: float64 [n_slices], NaN where the slices have no position. ``networks``: class probabilities in the order
    of the metadata's networks, float32 [networks, n_slices, classes].
    """

    z_mm: NDArray[np.float64]
    phantom: bool
    grey_sha256: str
    networks: NDArray[np.float32]


@dataclass(frozen=True)
class NewScans:
    """``scans``: by scan_id, in the order in which they were found; at least one."""

    scans: Mapping[str, NewScan]
    metadata: NewScansMetadata

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of the booster's features."""
        return tuple(dict.fromkeys(network.model for network in self.metadata.networks))

    @property
    def notice(self) -> str | None:
        """What heads whatever is said of these scans, None where neither they nor the study are synthetic."""
        return notice_for(study=self.metadata.phantom, scans=any(scan.phantom for scan in self.scans.values()))

    @property
    def sets(self) -> SliceSets:
        """Each scan as every set of networks sees it: the ensemble's only one, or one for each fold."""
        folds = [network.fold for network in self.metadata.networks]
        return {scan_id: by_fold(scan.networks, folds) for scan_id, scan in self.scans.items()}

    def features(self) -> tuple[pd.DataFrame, ...]:
        """Return the booster's features of the scans from each set of networks, percent, one row each (section 2.2)."""
        return features_of_sets(self.sets, self.models, self.metadata.classes)


def write_new_scans(path: Path, new: NewScans) -> None:
    """Write predictions.parquet of new scans: a row for every scan, network and slice, columns as in ``records``."""
    classes = new.metadata.classes
    table = pd.concat(
        [
            _rows(scan_id, scan, k, network, classes)
            for scan_id, scan in new.scans.items()
            for k, network in enumerate(new.metadata.networks)
        ],
        ignore_index=True,
    )
    notice = {} if new.notice is None else {"notice": new.notice}
    arrow = pa.Table.from_pandas(table, schema=_schema(classes), preserve_index=False)
    write_parquet(path, arrow, {**notice, **asdict(new.metadata)})


def read_new_scans(path: Path) -> NewScans:
    """Read and check predictions.parquet of new scans.

    Raises RunError, naming the file and what to do, where it is missing, damaged, a run's own, of another schema
    version or lacks a column; where a scan lacks a network or a slice, or has one twice; or where probabilities are
    none.
    """
    table, about = read_parquet(path, first="Run predict.py on the scans first.", again=_AGAIN)
    metadata = _parse_metadata(about, path)
    if not table.schema.remove_metadata().equals(_schema(metadata.classes)):
        raise RunError(f"{path} has other columns than predictions of new scans have. {_AGAIN}")
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}.get)
    columns = probability_columns(metadata.classes)
    frame = frame.assign(network=_network_numbers(frame, metadata, path))
    names = np.array([_network_name(each) for each in metadata.networks])
    named = frame.assign(scan_id=frame["scan_id"].str.cat(names[frame["network"]], " "))  # checked as scans
    problem = wrong_slices(named) or wrong_probabilities(named, columns, "class probabilities")
    if problem:
        raise RunError(f"{path}: {problem}. {_AGAIN}")
    ordered = frame.sort_values(["network", "slice_index"], kind="stable").groupby("scan_id", sort=False)
    scans = {str(scan_id): _scan(str(scan_id), rows, metadata, path) for scan_id, rows in ordered}
    if not scans:
        raise RunError(f"{path} holds no scan. {_AGAIN}")
    return NewScans(scans, metadata)


def _rows(scan_id: str, scan: NewScan, k: int, network: NetworkId, classes: tuple[str, ...]) -> pd.DataFrame:
    n_slices = len(scan.z_mm)
    rows = pd.DataFrame(
        {
            "scan_id": scan_id,
            "model": network.model,
            "fold": pd.array([network.fold] * n_slices, dtype="Int64"),
            "slice_index": np.arange(n_slices),
            "n_slices": n_slices,
            "z_mm": scan.z_mm,
            "phantom": scan.phantom,
            "grey_sha256": scan.grey_sha256,
        }
    )
    rows[probability_columns(classes)] = scan.networks[k]
    return rows


def _scan(scan_id: str, rows: pd.DataFrame, metadata: NewScansMetadata, path: Path) -> NewScan:
    """Return one scan from its rows in the order of networks and slices; each network's slices have been checked."""
    n_networks, n_slices = len(metadata.networks), int(rows["n_slices"].iloc[0])
    if rows["network"].nunique() != n_networks or rows["n_slices"].nunique() != 1:
        raise RunError(
            f"{path}: scan {scan_id} is not predicted by each of the {n_networks} networks that the file names, for "
            f"the same slices. {_AGAIN}"
        )
    probabilities = rows[probability_columns(metadata.classes)].to_numpy(dtype=np.float32)
    z_mm = rows["z_mm"].to_numpy(dtype=np.float64, na_value=np.nan)[:n_slices]
    phantom, grey_sha256 = rows["phantom"].iloc[0], rows["grey_sha256"].iloc[0]
    return NewScan(z_mm, bool(phantom), str(grey_sha256), probabilities.reshape(n_networks, n_slices, -1))


def _network_numbers(rows: pd.DataFrame, metadata: NewScansMetadata, path: Path) -> NDArray[np.int64]:
    """Return each row's position among the metadata's networks."""
    numbers = {(each.model, each.fold): k for k, each in enumerate(metadata.networks)}
    folds = (None if pd.isna(fold) else int(fold) for fold in rows["fold"])
    found = [numbers.get((model, fold), -1) for model, fold in zip(rows["model"], folds, strict=True)]
    if -1 in found:
        unknown = rows.iloc[found.index(-1)]
        raise RunError(
            f"{path}: scan {unknown['scan_id']} is predicted by {unknown['model']}, fold {unknown['fold']}, which is "
            f"none of the networks that the file names. {_AGAIN}"
        )
    return np.array(found, dtype=np.int64)


def _network_name(network: NetworkId) -> str:
    return f"({network.model})" if network.fold is None else f"({network.model}, fold {network.fold})"


def _schema(classes: tuple[str, ...]) -> pa.Schema:
    fixed = [(name, _ARROW_TYPES[dtype]) for name, dtype in NEW_SCAN_COLUMNS.items()]
    return pa.schema(fixed + [(name, pa.float32()) for name in probability_columns(classes)])


def _parse_metadata(about: dict[str, Any], path: Path) -> NewScansMetadata:
    if about.get("kind") != NEW_SCANS:
        raise RunError(
            f"{path} holds a study's own scans, not new ones: those are scored by aggregate.py without evaluate. Give "
            "the predictions.parquet that predict.py has written."
        )
    about.pop("notice", None)
    try:
        networks = tuple(NetworkId(**each) for each in about.pop("networks"))
        return NewScansMetadata(networks=networks, classes=tuple(about.pop("classes")), **about)
    except (TypeError, KeyError) as error:
        raise RunError(f"{path} has damaged metadata ({error}). {_AGAIN}") from error
