"""lungs=lungmask: the network R231 of the package lungmask, an optional dependency."""

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs.morphology import Mask
from cnr_iemn.errors import ConfigurationError


def segment_by_network(hu: NDArray[np.int16]) -> Mask:
    """Segment by the network R231 (Hofmanninger et al., Eur Radiol Exp 4:50, 2020), which fetches its weights once.

    Args:
        hu: int16 [slices, rows, columns], HU.

    Returns:
        The mask, bool of the same shape.

    Raises:
        ConfigurationError: The package is not installed or cannot load its weights.
    """
    try:
        from lungmask import LMInferer
    except ImportError as error:
        raise ConfigurationError(
            "lungs=lungmask needs the package lungmask. Install it with: pip install '.[lungmask]'"
        ) from error
    try:
        network = LMInferer(modelname="R231", tqdm_disable=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise ConfigurationError(
            f"The weights of lungs=lungmask cannot be loaded ({type(error).__name__}: {error}). "
            "lungmask downloads them at first use. Connect this machine once, or choose lungs=pleura."
        ) from error
    return np.asarray(network.apply(hu)) > 0
