"""Deep features of new scans: a file of tensors for each scan, for other programs to learn from."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cnr_iemn.inference.prediction_writer import ScanFiles
from cnr_iemn.inference.scan_result import ScanResult, file_stem
from cnr_iemn.utils.atomic_io import write_bytes_atomic

FOLDER = "features"


class FeatureFiles:
    """Writes ``features/<scan>.safetensors``: by network the pooled features of the slices, float16, head first.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, result: ScanResult) -> ScanFiles:
        """Write the features of a scan: 4 KB a slice and network of 2,048 features."""
        name = f"{FOLDER}/{file_stem(result.scan_id)}.safetensors"
        tensors = {network: np.ascontiguousarray(values) for network, values in result.features.items()}
        write_bytes_atomic(self._folder / name, save(tensors, metadata={"scan": result.scan_id}))
        return {"features": name}

    def close(self) -> None:
        """Nothing is left to do."""
