"""A lesion of the phantom's recipe put into any scan, a real one too."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.lesions import Lesion, ellipsoid_share, make_dense, soften
from cnr_iemn.ct.volume import Volume


def insert_lesion(volume: Volume, lungs: NDArray[np.bool_], lesion: Lesion) -> tuple[Volume, NDArray[np.bool_]]:
    """Return the scan with a lesion, and the voxels whose HU it has changed, bool [slices, rows, columns].

    ``lungs``: the mask of ``segment_lungs``; nothing outside it changes. ``lesion``: no layer; its centre is in mm from
    the middle of the first voxel: along the columns, along the rows, and down from the first slice. It has no
    lobe to keep to, and adds no noise or blur of its own.
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
