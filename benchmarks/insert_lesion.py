"""Insertion of a phantom lesion into any scan, also a real one."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.volume import Volume
from cnr_iemn.phantom.lesions import Lesion, ellipsoid_share, make_dense, soften


def insert_lesion(volume: Volume, lungs: NDArray[np.bool_], lesion: Lesion) -> tuple[Volume, NDArray[np.bool_]]:
    """Insert a lesion into a scan, without noise or blur, and regardless of lobes.

    Args:
        volume: The scan.
        lungs: The mask of ``segment_lungs``, bool [slices, rows, columns]; voxels outside it do not change.
        lesion: The lesion, an ellipsoid. Its centre is in mm from the centre of the first voxel: along the columns,
            along the rows, and downwards from the first slice.

    Returns:
        The scan with the lesion, and the voxels whose HU changed, bool [slices, rows, columns].
    """
    step, row, column = volume.spacing_mm
    y, x = (np.arange(n, dtype=np.float32) * mm for n, mm in zip(volume.hu.shape[1:], (row, column), strict=True))
    hu = volume.hu.copy()
    for index in range(len(hu)):
        depth = index * step
        if abs(depth - lesion.centre[2]) < lesion.radii[2]:
            share = soften(ellipsoid_share(lesion, x, y, depth)) * lungs[index]
            tissue = hu[index].astype(np.float32)
            make_dense(tissue, lesion, share.astype(np.float32), x, y, depth)
            hu[index] = np.rint(tissue)
    return replace(volume, hu=hu), hu != volume.hu
