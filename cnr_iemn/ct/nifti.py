"""NIfTI volumes: HU in an orientation that the file's affine tells."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.rescale import AIR_HU, check_plausible
from cnr_iemn.ct.volume import MAX_VOXELS, Volume
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT, Permissions

MAX_BYTES = 2**32
"""Of a file, inflated."""


def read_nifti(path: Path, scan: str, allowed: Permissions = STRICT) -> Volume:
    """Return the volume of one NIfTI file, its slices head first and its rows from front to back as DICOM has them.

    The affine (sform, else qform) must tell the orientation, and the slices must be axial. Raises ScanError.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    data = _whole_file(path, scan)
    try:
        image = nibabel.nifti1.Nifti1Image.from_bytes(data)
        if len(image.shape) != 3 or min(image.shape) < 1:
            raise ScanError(f"{scan}: shape {image.shape} is not one volume. Give a file for each volume.")
        if np.prod(image.shape, dtype=np.int64) > MAX_VOXELS:
            raise ScanError(f"{scan}: shape {image.shape} is more than {MAX_VOXELS:,} voxels. Resample it.")
        _check_affine(image, scan)
        upright = nibabel.funcs.as_closest_canonical(image)  # type: ignore[no-untyped-call]  # nibabel has no types here
        values = np.asanyarray(upright.dataobj)  # [to the right, to the front, to the head], scaled
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ScanError(f"{scan}: cannot be read as NIfTI ({type(error).__name__}). Copy the file again.") from error
    affine: NDArray[np.float64] = upright.affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    normal = affine[:3, 2] / steps[2]
    if normal[2] < 0.9:
        raise ScanError(
            f"{scan}: the slices are not axial (z of their axis is {normal[2]:.2f}). Give the axial series."
        )
    hu, outside = _to_hu(values.transpose(2, 1, 0)[::-1, ::-1, ::-1], scan)
    if len(hu) < 2:
        raise ScanError(f"{scan}: one slice only. A scan needs two at least, or it has no slice distance.")
    if not allowed.assume_hu:
        check_plausible(hu, outside, scan)
    z = float(affine[:3, 3] @ normal) + steps[2] * np.arange(len(hu))[::-1]
    spacing = (float(steps[2]), float(steps[1]), float(steps[0]))
    return Volume(hu, spacing, z, _findings(normal), False, hashlib.sha256(data).hexdigest())


def _whole_file(path: Path, scan: str) -> bytes:
    """Return the bytes of the file, inflated to the end: only there gzip's checksum tells that they are right."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ScanError(f"{scan}: the file is damaged ({type(error).__name__}). Copy it again.") from error
    if len(data) > MAX_BYTES:
        raise ScanError(f"{scan}: more than {MAX_BYTES:,} bytes, no single scan. Give one volume.")
    return data


def _check_affine(image: "object", scan: str) -> None:
    """Refuse a file whose orientation nobody has written down: head and feet would be a guess."""
    header = image.header  # type: ignore[attr-defined]  # nibabel has no types
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise ScanError(
            f"{scan}: sform_code and qform_code are 0, so the file does not tell which end is the head; labels could "
            "be mirrored. Convert the scan again with its orientation."
        )
    affine = image.affine  # type: ignore[attr-defined]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise ScanError(f"{scan}: the affine is not invertible. Convert the scan again with its orientation.")


def _to_hu(values: NDArray[np.generic], scan: str) -> tuple[NDArray[np.int16], int]:
    """Return HU and how many voxels lay below air, outside the field of view."""
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise ScanError(f"{scan}: values of type {values.dtype} are no HU. Convert the scan again.")
    hu = np.empty(values.shape, np.int16)
    outside = 0
    for index, image in enumerate(values):
        numbers = np.asarray(image, np.float64)
        if not np.isfinite(numbers).all():
            raise ScanError(f"{scan}: slice {index} holds values that are no numbers. Convert the scan again.")
        outside += int(np.count_nonzero(numbers < AIR_HU))
        hu[index] = np.rint(np.clip(numbers, AIR_HU, np.iinfo(np.int16).max))
    return hu, outside


def _findings(normal: NDArray[np.float64]) -> tuple[str, ...]:
    lean = float(np.degrees(np.arccos(min(1.0, normal[2]))))
    return (f"the slices lean by {lean:.1f} degrees; kept as they are",) if lean > 0.5 else ()
