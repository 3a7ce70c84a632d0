"""What a NIfTI header says of orientation, axes, units, shape and scaling: applied, or the file is refused for it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.volume import MAX_VOXELS
from cnr_iemn.errors import RefusalCode, ScanError

Affine = NDArray[np.float64]

_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by code of xyzt_units: not given, metre, millimetre, micrometre
_SPACING_MM = (0.1, 30.0)  # of any axis; beyond, the unit is not what the header says
_SAME_LENGTH, _SAME_DEGREES, _SAME_PLACE_MM = 0.01, 1.0, 1.0  # single precision and rounding to two digits stay below
_LONGEST_TURN = 1.01  # length of a quaternion's b, c, d, 1 at most; rounding makes it longer
_MAX_RATIO = 1.5  # how much longer than wide a pixel may be; those of a CT slice are square
_KINDS = (  # place and bytes by which other formats are known
    (0, b"\x1f\x8b", "it is packed by gzip twice. Unpack it once"),
    (0, b"BZh", "it is packed by bzip2. Unpack it"),
    (0, b"\xfd7zXZ", "it is packed by xz. Unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "it is packed by zstd. Unpack it"),
    (0, b"PK\3\4", "it is a zip. Name it .zip if DICOM files are in it, or unpack it"),
    (0, b"NRRD", "it is NRRD. Convert it to NIfTI"),
    (0, b"ObjectType", "it is MetaImage. Convert it to NIfTI"),
    (0, b"\0\0\0\1", "it is MGH. Convert it to NIfTI"),
    (0, b"\x89HDF", "it is HDF5 (MINC, perhaps). Convert it to NIfTI"),
    (0, b"version https://git-lfs", "it is a pointer of Git LFS. Fetch the file itself (git lfs pull)"),
    (128, b"DICM", "it is DICOM. Put the files of the scan into one folder and give that"),
)
_PAIR = "it is one of a pair of files (.hdr and .img). Convert the scan to one .nii file"


@dataclass(frozen=True)
class Header:
    """``fields``: nibabel's header; ``affine``: of voxel indices to mm; ``findings``: doubts about it."""

    fields: Any  # nibabel has no types
    affine: Affine
    findings: tuple[str, ...]


def read_header(data: bytes, scan: str) -> Header:
    """Return what a file says of itself, all of it checked.

    Args:
        data: The file's bytes, inflated.
        scan: What messages call it.

    Returns:
        The header.

    Raises:
        ScanError: It is no NIfTI file, or contradicts itself.
        nibabel.spatialimages.HeaderDataError: A field holds what no NIfTI header may.
    """
    kind = _kind(data, scan)
    header = kind.header_class(data[: kind.header_class.template_dtype.itemsize], check=False)
    _mend(header, scan)
    _check_shape(header, data, scan)
    _check_scaling(header, scan)
    affine, findings = _orientation(header, scan)
    return Header(header, affine, findings)


def _kind(data: bytes, scan: str) -> Any:
    """Return nibabel's class for the file."""
    import nibabel

    sizes = {int.from_bytes(data[:4], order) for order in ("little", "big")} if len(data) >= 4 else set()
    if 348 in sizes and data[344:347] == b"n+1":
        return nibabel.nifti1.Nifti1Image
    if 540 in sizes and data[4:7] == b"n+2":
        return nibabel.nifti2.Nifti2Image
    what = next((words for place, mark, words in _KINDS if data[place:].startswith(mark)), "")
    if data[344:347] == b"ni1" or data[4:7] == b"ni2":
        what = _PAIR
    elif 348 in sizes:
        what = f"it is Analyze 7.5, which does not tell which end is the head; {_PAIR}"
    code = RefusalCode.OTHER_FORMAT if what else RefusalCode.DAMAGED_NIFTI
    raise ScanError(code, f"{scan}: cannot be read as NIfTI: {what or 'it has no NIfTI header. Copy the file again'}.")


def _mend(header: Any, scan: str) -> None:
    """Bring fields that readers take loosely to what they mean: qfac, signs of pixdim, a rounded quaternion."""
    pixdim = np.abs(header["pixdim"])  # a length of 0, not known, stays
    pixdim[0] = -1 if header["pixdim"][0] < 0 else 1  # qfac, 0 for 1
    header.check_fix()  # raises HeaderDataError where nothing can be mended
    header["pixdim"] = pixdim
    if header["vox_offset"] == 0:
        raise ScanError(
            RefusalCode.DAMAGED_NIFTI,
            f"{scan}: vox_offset is 0, so the voxels would begin in the header. Convert the scan again.",
        )
    turn = np.array([header[f"quatern_{axis}"] for axis in "bcd"], np.float64)
    if 1 < (length := float(np.linalg.norm(turn))) <= _LONGEST_TURN:
        for axis, value in zip("bcd", turn / length / (1 + np.finfo(float).eps), strict=True):
            header[f"quatern_{axis}"] = value


def _check_shape(header: Any, data: bytes, scan: str) -> None:
    """Refuse what is not one volume, or holds other voxels than the header says; axes of length 1 behind z are none."""
    shape = header.get_data_shape()
    if len(shape) < 3 or min(shape) < 1 or np.prod(shape[3:], dtype=np.int64) != 1:
        raise ScanError(
            RefusalCode.SEVERAL_VOLUMES, f"{scan}: shape {shape} is not one volume. Give a file for each volume."
        )
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise ScanError(
            RefusalCode.TOO_LARGE, f"{scan}: shape {shape} is more than {MAX_VOXELS:,} voxels. Resample it."
        )
    itemsize = header.get_data_dtype().itemsize
    end = header.get_data_offset() + np.prod(shape, dtype=np.int64) * itemsize
    if len(data) - end >= shape[0] * shape[1] * itemsize:
        raise ScanError(
            RefusalCode.DAMAGED_NIFTI,
            f"{scan}: the file goes on for {len(data) - end:,} bytes behind the volume of shape {shape}: dim or "
            "datatype of its header is wrong. Convert the scan again.",
        )


def _check_scaling(header: Any, scan: str) -> None:
    """Refuse a slope and intercept that are neither a scaling nor none (slope 0 or NaN)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    none = slope == 0 or np.isnan(slope)
    if (none and (intercept == 0 or np.isnan(intercept))) or (not none and np.isfinite([slope, intercept]).all()):
        return
    raise ScanError(
        RefusalCode.MISSING_RESCALE,
        f"{scan}: scl_slope {slope:g} and scl_inter {intercept:g} are not a scaling, so the values cannot be brought "
        "to HU. Convert the scan again with its rescaling.",
    )


def _orientation(header: Any, scan: str) -> tuple[Affine, tuple[str, ...]]:
    """Return the one affine that sform, qform and pixdim agree on, in mm: head and feet are never a guess."""
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    affine = qform if sform is None else sform
    if affine is None:
        raise ScanError(
            RefusalCode.NO_ORIENTATION,
            f"{scan}: sform_code and qform_code are 0, so the file does not tell which end is the head; labels could "
            "be mirrored. Convert the scan again with its orientation.",
        )
    for form in (sform, qform):
        if form is not None and not (np.isfinite(form).all() and _is_invertible(form)):
            raise ScanError(
                RefusalCode.NO_ORIENTATION,
                f"{scan}: the affine is not invertible. Convert the scan again with its orientation.",
            )
    if sform is not None and qform is not None and _differ(sform, qform):
        raise ScanError(
            RefusalCode.NO_ORIENTATION,
            f"{scan}: its two orientations contradict each other (sform {_text(sform)}, qform {_text(qform)}), so "
            "the file does not tell which end is the head; labels could be mirrored. Convert the scan again, or set "
            "the code of the wrong one to 0.",
        )
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    if qform is None and not _same_lengths(affine, np.where(pixdim > 0, pixdim, _lengths(affine))):
        raise ScanError(
            RefusalCode.VOXEL_SIZE,
            f"{scan}: pixdim says voxels of {_join(pixdim)} mm, the sform {_join(_lengths(affine))}: one of them is "
            "wrong. Convert the scan again.",
        )
    if np.array_equal(np.abs(affine), np.eye(4)):
        raise ScanError(
            RefusalCode.NO_ORIENTATION,
            f"{scan}: the affine is the identity (or its mirror image), which programs write where they know none, "
            "so the file does not tell which end is the head; labels could be mirrored. Convert the scan again with "
            "its orientation.",
        )
    findings = []
    if sform is not None and qform is not None:
        apart = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3]))
        if apart > _SAME_PLACE_MM:
            findings.append(f"sform and qform lie {apart:.0f} mm apart; positions are the sform's")
    if not affine[:3, 3].any() and np.count_nonzero(affine[:3, :3]) == 3:
        findings.append("orientation in doubt: no turn and the origin at 0, as a program writes that knows none")
    return _in_mm(affine, header, scan), tuple(findings)


def _in_mm(affine: Affine, header: Any, scan: str) -> Affine:
    code = int(header["xyzt_units"]) & 7
    if code not in _MM:
        raise ScanError(
            RefusalCode.VOXEL_SIZE,
            f"{scan}: unit {code} of lengths (xyzt_units) is not known. Convert the scan again in mm.",
        )
    scaled: Affine = np.diag([_MM[code]] * 3 + [1.0]) @ affine
    lengths = _lengths(scaled)
    if lengths.min() < _SPACING_MM[0] or lengths.max() > _SPACING_MM[1]:
        raise ScanError(
            RefusalCode.VOXEL_SIZE,
            f"{scan}: affine and xyzt_units give voxels of {_join(lengths)} mm, which no CT has: the unit is wrong, "
            "or the header is damaged. Convert the scan again in mm.",
        )
    return scaled


def check_axes(upright: Affine, scan: str) -> tuple[float, float, NDArray[np.float64]]:
    """Refuse volumes whose slices are not axial, or whose pixels are no rectangles.

    Args:
        upright: Affine in mm of axes to the right, to the front and to the head.
        scan: What messages call it.

    Returns:
        The distance between slices in mm, the degrees by which each is shifted against the next, and the slices'
        normal, float64 [3], which points to the head.

    Raises:
        ScanError: They are.
    """
    right, front, head = upright[:3, :3].T
    normal = np.cross(right, front)
    normal /= np.linalg.norm(normal)
    if normal[2] < 0.9:
        raise ScanError(
            RefusalCode.NOT_AXIAL,
            f"{scan}: the slices are not axial (z of their axis is {normal[2]:.2f}). Give the axial series.",
        )
    columns, rows = np.linalg.norm(right), np.linalg.norm(front)
    if abs(_degrees(right, front) - 90) > _SAME_DEGREES:
        raise ScanError(
            RefusalCode.VOXEL_SIZE, f"{scan}: rows and columns are not at right angles (sheared). Resample the scan."
        )
    if max(rows, columns) > _MAX_RATIO * min(rows, columns):
        raise ScanError(
            RefusalCode.NOT_AXIAL,
            f"{scan}: pixels of {rows:.2f} x {columns:.2f} mm in the axial slices, but CT pixels are square: the "
            "scan is of coronal or sagittal slices. Give the axial series.",
        )
    return float(head @ normal), _degrees(head, normal), normal


def _differ(sform: Affine, qform: Affine) -> bool:
    """Tell whether two affines turn a volume otherwise. A shear of the slices, which no qform has, is none."""
    if not _same_lengths(sform, _lengths(qform)) or np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        return True
    pairs = [zip(axes.T, qform[:3, :3].T, strict=True) for axes in (sform[:3, :3], _normals(sform))]
    angles = [[_degrees(a, b) for a, b in pair] for pair in pairs]
    return bool(np.min(angles, axis=0).max() > _SAME_DEGREES)


def _same_lengths(affine: Affine, lengths: NDArray[np.float64]) -> bool:
    """Tell whether voxels have these lengths, along each axis or, in a sheared volume, at right angles to the rest."""
    upright = np.abs(np.sum(_normals(affine) * affine[:3, :3], axis=0))
    matches = [np.isclose(mm, lengths, rtol=_SAME_LENGTH) for mm in (_lengths(affine), upright)]
    return bool((matches[0] | matches[1]).all())


def _normals(affine: Affine) -> NDArray[np.float64]:
    """Return for each axis the unit vector at right angles to the two others, on its own side; in columns."""
    inverse = np.linalg.inv(affine[:3, :3]).T
    normals: NDArray[np.float64] = inverse / np.linalg.norm(inverse, axis=0)
    return normals


def _lengths(affine: Affine) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return lengths


def _is_invertible(affine: Affine) -> bool:
    volume = max(float(np.prod(_lengths(affine))), np.finfo(float).tiny)
    return bool(abs(np.linalg.det(affine[:3, :3])) >= 1e-6 * volume)


def _degrees(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def _join(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)


def _text(affine: Affine) -> str:
    import nibabel

    codes = "".join(nibabel.orientations.aff2axcodes(affine))  # type: ignore[no-untyped-call]
    return f"{codes}, {_join(_lengths(affine))} mm"
