"""lungs=tutorial: the algorithm that the paper cites."""

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs.morphology import Mask
from cnr_iemn.ct.lungs.parameters import THRESHOLD_HU


def segment_as_tutorial(hu: NDArray[np.int16]) -> Mask:
    """Segment as the tutorial that the paper cites for its masks (Zuidhof, Kaggle, 2017).

    Background is the air that is joined to voxel [0, 0, 0]; in each slice all that lies outside the largest solid
    component counts as lung; the largest component of all that is the lungs. Components touch by faces, edges or
    corners.

    Args:
        hu: int16 [slices, rows, columns], HU.

    Returns:
        The mask, bool of the same shape.
    """
    from skimage.measure import label

    labels = label(hu <= THRESHOLD_HU)
    lungs: Mask = labels > 0
    if labels[0, 0, 0]:
        lungs &= labels != labels[0, 0, 0]
    for image in lungs:
        solid = label(~image)
        if solid.any():
            image[:] = solid != _largest(solid)
    components = label(lungs)
    return components == _largest(components) if components.any() else lungs


def _largest(labels: NDArray[np.integer]) -> int:
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return int(counts.argmax())
