"""Slice predictions of an ensemble's networks for new scans; stage 2 can score them again without the networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import notice_for
from cnr_iemn.data.predictions.prediction_checks import network_numbers
from cnr_iemn.data.predictions.prediction_file import read_table, write_tables
from cnr_iemn.schemas import NetworkId, NewScansMetadata, channel_columns
from cnr_iemn.stage2.out_of_fold import SliceSets, by_fold


@dataclass(frozen=True)
class NewScan:
    """The predictions of one scan, head first. ``phantom``, ``grey_sha256``: as in ``StoredScan``.

    ``z_mm``: float64 [n_slices], NaN where the slices have no position. ``networks``: channels (``ScanArray``) in the
    order of the metadata's networks, float32 [networks, n_slices, channels].
    """

    z_mm: NDArray[np.float64]
    phantom: bool
    grey_sha256: str
    networks: NDArray[np.float32]


@dataclass(frozen=True)
class NewScans:
    """``scans``: by scan_id, in the order of the input; at least one."""

    scans: Mapping[str, NewScan]
    metadata: NewScansMetadata

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of the ensemble."""
        return tuple(dict.fromkeys(network.model for network in self.metadata.networks))

    @property
    def notice(self) -> str | None:
        """The notice on synthetic scans; None where neither the scans nor the study are synthetic."""
        return notice_for(study=self.metadata.phantom, scans=any(scan.phantom for scan in self.scans.values()))

    @property
    def sets(self) -> SliceSets:
        """Each scan's predictions by every set of networks: one set for each fold, or one for all without folds."""
        folds = [network.fold for network in self.metadata.networks]
        return {scan_id: by_fold(scan.networks, folds) for scan_id, scan in self.scans.items()}


def write_new_scans(path: Path, new: NewScans) -> None:
    """Write predictions.parquet of new scans, one after the other. Raises RunError where ``read_new_scans`` would."""
    networks = list(enumerate(new.metadata.networks))
    tables = (
        pd.concat([_rows(scan_id, scan, k, network, new.metadata) for k, network in networks], ignore_index=True)
        for scan_id, scan in new.scans.items()
    )
    write_tables(path, tables, new.metadata, notice=new.notice)


def read_new_scans(path: Path) -> NewScans:
    """Read and check predictions.parquet of new scans. Raises RunError as ``read_table`` does."""
    table, metadata = read_table(path, NewScansMetadata)
    table = table.assign(network=network_numbers(table, metadata.networks))
    scans = table.sort_values(["network", "slice_index"], kind="stable").groupby("scan_id", sort=False)
    return NewScans({str(scan_id): _scan(rows, metadata) for scan_id, rows in scans}, metadata)


def _rows(scan_id: str, scan: NewScan, k: int, network: NetworkId, metadata: NewScansMetadata) -> pd.DataFrame:
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
    rows[channel_columns(metadata)] = scan.networks[k]
    return rows


def _scan(rows: pd.DataFrame, metadata: NewScansMetadata) -> NewScan:
    """Return one scan from its rows in the order of networks and slices."""
    n_networks, n_slices = len(metadata.networks), int(rows["n_slices"].iloc[0])
    channels = rows[channel_columns(metadata)].to_numpy(dtype=np.float32)
    z_mm = rows["z_mm"].to_numpy(dtype=np.float64)[:n_slices]
    phantom, grey_sha256 = rows["phantom"].iloc[0], rows["grey_sha256"].iloc[0]
    return NewScan(z_mm, bool(phantom), str(grey_sha256), channels.reshape(n_networks, n_slices, -1))
