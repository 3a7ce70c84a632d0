"""What is known of stored scans beside the networks' predictions, to look for shortcuts and near-duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.data.coarse_volumes import coarse_volumes
from cnr_iemn.data.demographics.group_table import coarse_table, group_table
from cnr_iemn.data.shortcut_features import shortcuts
from cnr_iemn.data.slice_store import SliceStore


@dataclass(frozen=True)
class ScanFeatures:
    """Features by scan_id. ``shortcuts``: one row a scan. ``volumes``: of ``coarse_volumes``. ``groups``: of
    ``coarse_table``.
    """

    shortcuts: pd.DataFrame
    volumes: Mapping[str, NDArray[np.float32]]
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, store: SliceStore, scan_ids: Sequence[str]) -> "ScanFeatures":
        """Return the features of stored scans."""
        groups = coarse_table(group_table(store, scan_ids))
        return cls(shortcuts(store, scan_ids), coarse_volumes(store, scan_ids), groups)
