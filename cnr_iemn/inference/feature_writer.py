"""Deep features of new scans: a file of tensors for each scan, for other programs to learn from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cnr_iemn.inference.prediction_writer import ScanFiles
from cnr_iemn.inference.scan_result import ScanResult, file_stem
from cnr_iemn.utils.atomic_io import write_bytes_atomic


class FeatureFiles:
    """Writes ``features/<scan>.safetensors``: by network the pooled features of the slices, float16, head first.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "features"
        self._names: set[str] = set()

    @property
    def summary(self) -> str:
        """A line that says where the files are."""
        return f"wrote the features of {len(self._names)} scans to {self._folder}"

    def add(self, result: ScanResult) -> None:
        """Write the features of a scan: 4 KB a slice and network of 2,048 features."""
        name = f"{file_stem(result.scan_id)}.safetensors"
        tensors = {network: np.ascontiguousarray(values) for network, values in result.features.items()}
        write_bytes_atomic(self._folder / name, save(tensors, metadata={"scan": result.scan_id}))
        self._names.add(name)

    def finish(self) -> Mapping[str, ScanFiles]:
        """Remove the files of an earlier prediction's other scans."""
        for path in self._folder.glob("*.safetensors"):
            if path.name not in self._names:
                path.unlink(missing_ok=True)
        return {}
