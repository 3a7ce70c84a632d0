"""Whether a folder can be written, asked before any work."""

import os
import tempfile
from pathlib import Path

from cnr_iemn.errors import ConfigurationError


def require_writable(key: str, folder: Path) -> None:
    """Check that files can be made in a folder, or that the folder can be made; nothing is left in it.

    Args:
        key: The setting that names the folder, or a folder above it.
        folder: Where something will be written; it need not exist.

    Raises:
        ConfigurationError: The place cannot be written, with the reason and the key.
    """
    nearest = folder
    try:
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        place = f"{folder}: {nearest.absolute()}" if nearest != folder else str(folder)
        raise ConfigurationError(
            f"{place} cannot be written ({reason}). Give another folder with {key}=, one that can be written."
        ) from error
