"""NIfTI volumes: HU in an orientation that the file's affine tells."""

import gzip
import hashlib
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.hounsfield import AIR_HU, check_plausible
from cnr_iemn.ct.io.nifti_header import check_axes, read_header
from cnr_iemn.ct.volume import Volume
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions

MAX_BYTES = 2**32
"""Of a file, inflated."""
_GZIP, _PIECE = b"\x1f\x8b", 2**20


def read_nifti(path: Path, scan: str, options: ReadOptions = STRICT) -> Volume:
    """Return the volume of one NIfTI file, its slices head first and its rows from front to back as DICOM has them.

    Whether it is packed, and which version of NIfTI it is, its bytes tell, whatever its name. Raises ScanError.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    data = _whole_file(path, scan)
    try:
        header = read_header(data, scan)
        stored = header.fields.data_from_fileobj(BytesIO(data))  # scaled
        stored = stored.reshape(stored.shape[:3])
        ornt = nibabel.orientations.io_orientation(header.affine)  # type: ignore[no-untyped-call]  # has no types
        upright = header.affine @ nibabel.orientations.inv_ornt_aff(ornt, stored.shape)  # type: ignore[no-untyped-call]
        step, shift, normal = check_axes(upright, scan)
        values = nibabel.orientations.apply_orientation(stored, ornt)  # type: ignore[no-untyped-call]
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ScanError(
            RefusalCode.DAMAGED_NIFTI, f"{scan}: cannot be read as NIfTI ({type(error).__name__}). Copy the file again."
        ) from error
    # from [to the right, to the front, to the head]
    hu, outside = _to_hu(values.transpose(2, 1, 0)[::-1, ::-1, ::-1], scan)
    if len(hu) < 2:
        raise ScanError(
            RefusalCode.MISSING_SLICES,
            f"{scan}: one slice only. A scan needs two at least, or it has no slice distance.",
        )
    if not options.assume_hu:
        check_plausible(hu, outside, scan)
    z = np.float64(upright[:3, 3] @ normal) + step * np.arange(len(hu), dtype=np.float64)[::-1]
    column, row = np.linalg.norm(upright[:3, :2], axis=0)
    findings = header.findings + _findings(normal, shift)
    return Volume(hu, (step, float(row), float(column)), z, findings, False, hashlib.sha256(data).hexdigest())


def _whole_file(path: Path, scan: str) -> bytes:
    """Return the bytes of the file, inflated to the end: only there gzip's checksum tells that they are right."""
    pieces, size = [], 0  # one read of MAX_BYTES would ask for the memory of them all at once
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                while size <= MAX_BYTES and (piece := file.read(_PIECE)):
                    pieces.append(piece)
                    size += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise ScanError(
            RefusalCode.DAMAGED_NIFTI, f"{scan}: the file is damaged ({type(error).__name__}). Copy it again."
        ) from error
    if size > MAX_BYTES:
        raise ScanError(
            RefusalCode.TOO_LARGE, f"{scan}: more than {MAX_BYTES:,} bytes, no single scan. Give one volume."
        )
    return b"".join(pieces)


def _to_hu(values: NDArray[np.generic], scan: str) -> tuple[NDArray[np.int16], int]:
    """Return HU and how many voxels lay below air, outside the field of view."""
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise ScanError(
            RefusalCode.PIXEL_TYPE, f"{scan}: values of type {values.dtype} are not HU. Convert the scan again."
        )
    hu = np.empty(values.shape, np.int16)
    outside = 0
    for index, image in enumerate(values):
        numbers = np.asarray(image, np.float64)
        if not np.isfinite(numbers).all():
            raise ScanError(
                RefusalCode.PIXEL_TYPE,
                f"{scan}: slice {index} holds values that are not numbers. Convert the scan again.",
            )
        outside += int(np.count_nonzero(numbers < AIR_HU))
        hu[index] = np.rint(np.clip(numbers, AIR_HU, np.iinfo(np.int16).max))
    return hu, outside


def _findings(normal: NDArray[np.float64], shift: float) -> tuple[str, ...]:
    lean = float(np.degrees(np.arccos(min(1.0, normal[2]))))
    findings = [f"the slices lean by {lean:.1f} degrees; kept as they are"] if lean > 0.5 else []
    if shift > 0.5:
        findings.append(f"gantry tilt: the slices are shifted against each other by {shift:.1f} degrees; kept")
    return tuple(findings)
