"""Whatever a NIfTI header says of orientation, axes, units, shape and scaling is applied, or the file is refused."""

import bz2
import gzip
import hashlib
import re
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.utils.sandbox import run_limited

STEP, ROW, COLUMN = 2.5, 0.7, 0.8
AFFINE = np.array([[-COLUMN, 0, 0, 6.0], [0, -ROW, 0, 7], [0, 0, STEP, -100], [0, 0, 0, 1]])
"""Of ``stored``, as converters write it: x to the patient's left, y to the back, z to the head."""
SLOPE, INTERCEPT, QFAC, PIXDIM, OFFSET, QUATERNION = 112, 116, 76, 80, 108, 256  # their places in a NIfTI-1 header


def hu() -> np.ndarray:
    """12 slices of 20 rows and 16 columns, head first, no two of them and no two of their corners alike."""
    values = np.full((12, 20, 16), -1000, np.int16)
    values[:, 4:16, 4:12] = 10 + np.arange(12)[:, None, None]
    values[:, 5, 5], values[:, 5, 10], values[:, 14, 5] = 200, 300, 400
    return values


def stored() -> np.ndarray:
    return np.ascontiguousarray(hu()[::-1].transpose(2, 1, 0))


def turned(scale: tuple[float, ...] = (1, 1, 1), *, degrees: float = 0.0, shear: float = 0.0) -> np.ndarray:
    """Return AFFINE with axes scaled, turned about z, and slices shifted to the back by so much of their distance."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE @ np.diag([*scale, 1])
    affine[1, 2] += shear * STEP
    return affine


def per_mm(length: float) -> np.ndarray:
    """Return AFFINE in another unit, of which a millimetre has so many."""
    return np.diag([length, length, length, 1]) @ AFFINE


def image(
    sform: np.ndarray | None = AFFINE,
    qform: np.ndarray | None = AFFINE,
    *,
    data: np.ndarray | None = None,
    unit: int = 2,
) -> nibabel.Nifti1Image:
    """Return an image of ``stored``, or of ``data``, with these two orientations, each None for a code of 0."""
    image = nibabel.Nifti1Image(stored() if data is None else data, None)  # or it would write its own affine
    image.header["xyzt_units"] = unit
    image.header.set_qform(qform, int(qform is not None), strip_shears=True)
    image.header.set_sform(sform, int(sform is not None))
    if qform is None and sform is not None:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    return image


def changed(place: int, *values: float, data: np.ndarray | None = None, **forms: np.ndarray | None) -> bytes:
    """Return a file of which some 32-bit numbers of the header are others."""
    content = bytearray(image(data=data, **forms).to_bytes())
    struct.pack_into(f"<{len(values)}f", content, place, *values)
    return bytes(content)


def content_with(place: int, form: str, *values: int) -> bytes:
    """Return a file of which some fields of the header are others."""
    content = bytearray(image().to_bytes())
    struct.pack_into(form, content, place, *values)
    return bytes(content)


def read(folder: Path, content: bytes | nibabel.Nifti1Image, name: str = "P012.nii"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.to_bytes())
    return read_scan(folder / name)


UNSIGNED = (stored() + 1024).astype(np.uint16)
RIGHT = {
    "both alike": image(),
    "sform alone": image(qform=None),
    "qform alone": image(sform=None),
    "sheared sform, which no qform can say": image(turned(shear=0.2)),
    "an axis of length 1 behind z": image(data=stored()[..., None]),
    "two such axes": image(data=stored()[..., None, None]),
    "metres": image(per_mm(1e-3), per_mm(1e-3), unit=1),
    "micrometres": image(per_mm(1e3), per_mm(1e3), unit=3),
    "unit not given": image(unit=0),
    "unit of time beside": image(unit=2 + 8),
    "NIfTI-2": nibabel.Nifti2Image(stored(), AFFINE).to_bytes(),
    "big-endian": nibabel.Nifti1Image(stored(), AFFINE, nibabel.Nifti1Header(endianness=">")).to_bytes(),
    "gzip without .gz": gzip.compress(image().to_bytes()),
    "qfac 0": changed(QFAC, 0),
    "qfac 5": changed(QFAC, 5),
    "negative lengths": changed(PIXDIM, -COLUMN, -ROW, STEP),
    "lengths not given": changed(PIXDIM, 0, 0, 0, qform=None),
    "quaternion rounded up": changed(QUATERNION, 0, 0, 1.000002),
    "quaternion rounded up, alone": changed(QUATERNION, 0, 0, 1.004, sform=None),
    "bits of another type": content_with(72, "<h", 8),
    "slope 0": changed(SLOPE, 0, 0),
    "slope NaN": changed(SLOPE, np.nan, np.nan),
    "intercept": changed(SLOPE, 1, -1024, data=UNSIGNED),
    "slope": changed(SLOPE, 0.5, 0, data=stored() * 2),
    **{str(np.dtype(kind)): image(data=stored().astype(kind)) for kind in (np.int32, np.float32, np.float64)},
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_header_says_is_applied(name: str, tmp_path: Path) -> None:
    volume = read(tmp_path, RIGHT[name])
    np.testing.assert_array_equal(volume.hu, hu())
    np.testing.assert_allclose(volume.spacing_mm, (STEP, ROW, COLUMN), rtol=1e-5)
    np.testing.assert_allclose(np.diff(volume.z_mm), -STEP, rtol=1e-5)


def test_plain_bytes_named_gz(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, image(), "P012.nii.gz").hu, hu())


CORONAL = turned((1, STEP / ROW, ROW / STEP))  # the largest distance from front to back
EVERY = {f"{axis} mirrored": np.diag([*(-1 if k == n else 1 for k in range(3)), 1]) for n, axis in enumerate("xyz")}
REFUSED = {
    **{f"sform {name}": (image(AFFINE @ turn), "contradict each other") for name, turn in EVERY.items()},
    **{f"qform {name}": (image(AFFINE, AFFINE @ turn), "contradict each other") for name, turn in EVERY.items()},
    "turned by 3 degrees": (image(AFFINE, turned(degrees=3)), "contradict each other"),
    "other lengths": (image(turned((1, 1, 2))), "contradict each other"),
    "axes exchanged": (image(AFFINE[:, [1, 0, 2, 3]]), "contradict each other"),
    "identity sform": (image(np.eye(4)), "contradict each other"),
    "identity qform": (image(AFFINE, np.eye(4)), "contradict each other"),
    "both identity": (image(np.eye(4), np.eye(4)), "the affine is the identity"),
    "identity sform alone": (image(np.eye(4), None), "contradict|pixdim|identity"),
    "identity of ITK": (image(np.diag([-1, -1, 1, 1]), np.diag([-1, -1, 1, 1])), "the affine is the identity"),
    "neither": (image(None, None), "does not tell which end is the head"),
    "sform without volume": (image(np.diag([0, 1, 1, 1]), None), "not invertible"),
    "pixdim": (changed(PIXDIM, 1, 1, 5, qform=None), "pixdim says voxels of 1 x 1 x 5 mm, the sform 0.8 x 0.7 x 2.5"),
    "metres that are not": (
        image(unit=1),
        "affine and xyzt_units give voxels of 800 x 700 x 2.5e+03 mm, which no CT has",
    ),
    "micrometres that are not": (image(unit=3), "voxels of 0.0008"),
    "unknown unit": (image(unit=5), "unit 5 of lengths"),
    "slope 0 with an intercept": (changed(SLOPE, 0, -1024, data=UNSIGNED), "scl_slope 0 and scl_inter -1024"),
    "slope NaN with an intercept": (changed(SLOPE, np.nan, -1024, data=UNSIGNED), "scl_slope nan and scl_inter -1024"),
    "slope infinite": (changed(SLOPE, np.inf, 0), "scl_slope inf"),
    "intercept NaN": (changed(SLOPE, 1, np.nan), "scl_inter nan"),
    "several times": (image(data=np.stack([stored()] * 3, -1)), r"shape (16, 20, 12, 3) is not one volume"),
    "vectors": (image(data=np.stack([stored()] * 3, -1)[:, :, :, None]), "is not one volume"),
    "one plane": (image(data=stored()[..., 0]), "is not one volume"),
    "an axis that is too short": (changed(SLOPE, 1, 0) + stored().tobytes()[:2000], "goes on for 2,000 bytes"),
    "sheared rows": (image(AFFINE + 0.3 * np.eye(4, k=1), None), "not at right angles|pixdim"),
    "coronal slices": (image(CORONAL, CORONAL), "coronal or sagittal"),
    "NIfTI pair": (nibabel.Nifti1Pair(stored(), AFFINE).header.binaryblock, "one of a pair of files"),
    "Analyze": (nibabel.AnalyzeImage(stored(), np.eye(4)).header.binaryblock, "it is Analyze 7.5"),
    "DICOM": (bytes(128) + b"DICM" + bytes(500), "it is DICOM"),
    "NRRD": (b"NRRD0004\n" + bytes(500), "it is NRRD"),
    "bzip2": (bz2.compress(image().to_bytes()), "packed by bzip2"),
    "gzip twice": (gzip.compress(gzip.compress(image().to_bytes())), "packed by gzip twice"),
    "int8": (image(data=stored().clip(-128, 127).astype(np.int8)), "not in HU"),
    "uint8": (image(data=stored().clip(0, 255).astype(np.uint8)), "not in HU"),
    "uint16 without its intercept": (image(data=UNSIGNED), "not in HU"),
    "voxels within the header": (changed(OFFSET, 0), "vox_offset is 0, so the voxels would begin in the header"),
    "voxels that overlap the header": (changed(OFFSET, 348), "cannot be read as NIfTI"),
    "no place of voxels": (changed(OFFSET, np.nan), "cannot be read as NIfTI"),
    "unknown type of voxels": (content_with(70, "<h", 999), "cannot be read as NIfTI (HeaderDataError"),
    "qfac of the mirror image": (changed(QFAC, -1), "contradict each other"),
    "quaternion that is no turn": (changed(QUATERNION, 0, 0, 2), "cannot be read as NIfTI"),
    "empty": (b"", "has no NIfTI header"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused(name: str, tmp_path: Path) -> None:
    content, reason = REFUSED[name]
    pattern = reason if "|" in reason else re.escape(reason)
    with pytest.raises(ScanError, match=pattern) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith("P012: ")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (image(turned(shear=0.2)), "gantry tilt: the slices are shifted against each other by 11.3 degrees; kept"),
        (
            image((np.eye(4) + 30 * np.eye(4, k=3)) @ AFFINE),
            "sform and qform lie 30 mm apart; positions are the sform's",
        ),
        (image(np.diag([-0.8, -0.7, 2.5, 1]), None), "orientation in doubt: no turn and the origin at 0"),
    ],
)
def test_what_is_read_all_the_same_is_told(content: nibabel.Nifti1Image, finding: str, tmp_path: Path) -> None:
    volume = read(tmp_path, content)
    assert [text.startswith(finding) for text in volume.findings] == [True]
    np.testing.assert_array_equal(volume.hu, hu())


def test_other_formats_are_refused_by_name_and_not_passed_over(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(stored(), AFFINE), tmp_path / "a.hdr")
    (tmp_path / "b.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "c.nii").write_bytes(image().to_bytes())
    (tmp_path / "._c.nii").write_bytes(b"left by macOS")
    result = find_scans(tmp_path)
    assert [scan for scan, _ in result] == ["a", "b", "c"]
    for (scan, path), reason in zip(result, ("one of a pair", "it is NRRD"), strict=False):
        with pytest.raises(ScanError, match=f"^{scan}: cannot be read as NIfTI: .*{reason}"):
            read_scan(path)


def digest_and_shape(path: Path) -> tuple[str, tuple[int, ...]]:
    """Read a scan. Runs in a worker."""
    volume = read_scan(path)
    return volume.source_sha256, volume.hu.shape


@pytest.mark.slow
def test_one_process_reads_any_number_of_volumes_in_the_memory_that_they_need(tmp_path: Path) -> None:
    """Each of 25 MB, eight of them, in a process that may take 512 MB more than it starts with."""
    data = np.resize(stored(), (512, 512, 48))
    paths = [tmp_path / f"{k}.nii{'.gz' if k % 2 else ''}" for k in range(8)]
    content = image(data=data).to_bytes()
    for path in paths:
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    answers = dict(run_limited(digest_and_shape, paths, workers=1, memory_bytes=2**29))
    assert [answers[k] for k in range(8)] == [(hashlib.sha256(content).hexdigest(), (48, 512, 512))] * 8


@pytest.mark.parametrize("name", ["bomb.nii.gz", "large.nii"])
def test_a_file_of_too_many_bytes_is_not_read_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnr_iemn.ct.io.nifti.MAX_BYTES", 2**22)
    content = image().to_bytes() + bytes(2**27)
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    with pytest.raises(ScanError, match=f"{name[:4]}.*: more than 4,194,304 bytes"):
        read_scan(tmp_path / name)
