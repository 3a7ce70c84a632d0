"""features.npy of a run: the trunk's pooled features of every slice, float16, a row for each of predictions.parquet."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import write_bytes_atomic

FEATURES = "features.npy"


@dataclass(frozen=True)
class SliceFeatures:
    """Rows of a features.npy, which are read when they are needed: 24 networks fill 5 GB.

    ``rows``: int64 [n].
    """

    path: Path
    rows: NDArray[np.int64]

    @classmethod
    def open(cls, path: Path, *, n_rows: int) -> "SliceFeatures":
        """Return all rows of a file. Raises RunError where it is damaged or has another number of rows."""
        features = cls(path, np.arange(n_rows))
        if len(features._mapped()) != n_rows:
            raise RunError(_damaged(path, f"it has {len(features._mapped())} rows for {n_rows} slices"))
        return features

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "SliceFeatures":
        """Return some of the rows, by position or by truth value."""
        return replace(self, rows=self.rows[rows])

    @property
    def width(self) -> int:
        """Number of features of a slice."""
        return int(self._mapped().shape[1])

    def read(self) -> NDArray[np.float16]:
        """Return the rows, float16 [n, width]."""
        return np.asarray(self._mapped()[self.rows])

    def _mapped(self) -> NDArray[np.float16]:
        try:
            values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(_damaged(self.path, str(error).partition("\n")[0] or type(error).__name__)) from error
        if not isinstance(values, np.ndarray) or values.dtype != np.float16 or values.ndim != 2:
            raise RunError(_damaged(self.path, "it holds no table of float16"))
        return values


def write_features(path: Path, features: NDArray[np.float16]) -> None:
    """Write the features of all slices, float16 [n, n_features], whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    write_bytes_atomic(path, buffer.getbuffer())


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged: {reason}. Train the run again (overwrite=true)."
