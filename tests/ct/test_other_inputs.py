"""NIfTI volumes in any orientation, and zips."""

import itertools
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.folders import LEFT_FREE, unpacked
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.preprocess import prepare_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions

SCANNER = np.array([[-0.8, 0, 0, 6], [0, -0.7, 0, 7], [0, 0, 2.5, -100], [0, 0, 0, 1]])
"""An affine as converters write it: x to the patient's left, y to the back, z to the head."""


def _hu() -> np.ndarray:
    """12 slices of 20 rows and 16 columns, head first, with other values in every corner; air and tissue."""
    hu = np.full((12, 20, 16), -1000, np.int16)
    hu[:, 4:16, 4:12] = 10 + np.arange(12)[:, None, None]
    hu[:, 5, 5], hu[:, 5, 10], hu[:, 14, 5] = 200, 300, 400
    return hu


def _save(path: Path, codes: str = "RAS", *, kind: type = np.int16, form: int = 1, slope: float = 1.0) -> Path:
    """Write ``_hu`` with spacing 2.5, 0.7, 0.8 mm in the given orientation; the lowest slice lies at z = -100 mm."""
    ras = _hu()[::-1, ::-1, ::-1].transpose(2, 1, 0)  # to the right, to the front, to the head
    affine = np.diag([0.8, 0.7, 2.5, 1.0])
    affine[:3, 3] = [-6, -7, -100]
    orientation = nibabel.orientations.axcodes2ornt(codes)
    data = nibabel.orientations.apply_orientation(
        ras, nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), orientation)
    )
    affine = affine @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), orientation), ras.shape
    )
    image = nibabel.Nifti1Image((data / slope).astype(kind), affine)
    image.header.set_slope_inter(slope, 0)
    image.set_sform(affine, form)
    image.set_qform(affine, form)
    nibabel.save(image, path)
    return path


CODES = ["".join(c) for axes in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*axes)]


@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_gives_the_same_volume(codes, tmp_path):
    volume = read_scan(_save(tmp_path / "x.nii.gz", codes))
    np.testing.assert_array_equal(volume.hu, _hu())
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.7, 0.8), rtol=1e-6)
    np.testing.assert_allclose(volume.z_mm, -100 + 2.5 * np.arange(12)[::-1], rtol=1e-5)


@pytest.mark.parametrize(("kind", "slope"), [(np.float32, 1.0), (np.float64, 1.0), (np.int16, 0.5)])
def test_stored_types_and_scaling(kind, slope, tmp_path):
    np.testing.assert_array_equal(read_scan(_save(tmp_path / "x.nii", kind=kind, slope=slope)).hu, _hu())


def _turned(path: Path, degrees: float) -> Path:
    """Turn the volume in a file about the axis from right to left."""
    image = nibabel.load(path)
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).copy(), turn @ image.affine), path)
    return path


def test_an_oblique_volume_says_so(tmp_path):
    volume = read_scan(_turned(_save(tmp_path / "x.nii"), 10))
    assert volume.findings == ("the slices lean by 10.0 degrees; kept as they are",)
    np.testing.assert_array_equal(volume.hu, _hu())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: _save(p, form=0), "which end is the head"),
        (lambda p: p.write_bytes(b"no NIfTI"), "cannot be read as NIfTI"),
        (lambda p: p.write_bytes(_save(p).read_bytes()[:2000]), "cannot be read as NIfTI"),
        (lambda p: nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9, 2), np.int16), SCANNER), p), "not one volume"),
        (lambda p: nibabel.save(nibabel.Nifti1Image(_hu().T[..., :1], SCANNER), p), "one slice only"),
        (lambda p: nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 9), np.nan), SCANNER), p), "not numbers"),
        (lambda p: nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.uint8), SCANNER), p), "no air near -1000"),
    ],
)
def test_refusals(make, message, tmp_path):
    path = tmp_path / "P012.nii"
    make(path)
    with pytest.raises(ScanError, match=message) as caught:
        read_scan(path)
    assert str(caught.value).startswith("P012")


def test_a_volume_that_is_not_axial(tmp_path):
    with pytest.raises(ScanError, match="not axial"):
        read_scan(_turned(_save(tmp_path / "x.nii"), 35))


def test_values_assumed_to_be_hu(tmp_path):
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.int16), SCANNER), path)
    assert (read_scan(path, ReadOptions(assume_hu=True)).hu == 1).all()


def _zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def test_a_zip_is_read_like_its_folder(dicom, scan_folder, tmp_path):
    folder = scan_folder(dicom.make_slices())
    result, expected = prepare_scan(_zip(tmp_path / "P013.zip", folder), size=32), prepare_scan(folder, size=32)
    np.testing.assert_array_equal(result.grey, expected.grey)
    assert result.source_sha256 == expected.source_sha256
    assert result.findings == expected.findings


@pytest.mark.parametrize("name", ["../P012/x.dcm", "/etc/x.dcm", "a/../../x.dcm", "..\\x.dcm", "C:/x.dcm"])
def test_a_zip_writes_nothing_outside(name, tmp_path):
    path = tmp_path / "in" / "P012.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ScanError, match="P012: a file in the zip would land outside"):
        read_scan(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "P012.zip"]


def test_zip_limits(tmp_path, monkeypatch):
    path = tmp_path / "P012.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(2**24))
        archive.writestr("second", b"x")
    monkeypatch.setattr("cnr_iemn.ct.io.folders.MAX_BYTES", 2**23)
    with pytest.raises(ScanError, match="unpacks to more than 8,388,608 bytes"):
        read_scan(path)
    monkeypatch.setattr("cnr_iemn.ct.io.folders.MAX_FILES", 1)
    with pytest.raises(ScanError, match="holds 2 files, more than 1"):
        read_scan(path)


def test_a_zip_leaves_room_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "P012.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", bytes(1000))
    free = LEFT_FREE + 999
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(ScanError, match="or the disk is full"):
        read_scan(path)
    free += 1
    with pytest.raises(ScanError, match="no CT image in it"):
        read_scan(path)


def test_a_link_in_a_zip_is_an_ordinary_file(tmp_path):
    path, secret = tmp_path / "P012.zip", tmp_path / "secret"
    secret.mkdir()
    (secret / "IM0000.dcm").write_bytes(b"x")
    link = zipfile.ZipInfo("inside")
    link.create_system, link.external_attr = 3, 0o120777 << 16  # of Unix, a symbolic link
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, str(secret))
    with unpacked(path, "P012") as folder:
        assert (folder / "inside").read_text() == str(secret)
        assert not (folder / "inside").is_symlink()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("inside/IM0000.dcm", b"y")
    with pytest.raises(ScanError, match=r"P012: the zip cannot be unpacked \((File exists|Not a directory)\)"):
        read_scan(path)
    assert (secret / "IM0000.dcm").read_bytes() == b"x"


@pytest.mark.parametrize("flag", ["encrypted", "another name"])
def test_a_refused_zip_names_no_file_in_it(flag, tmp_path):
    path = tmp_path / "P012.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Doe.dcm", b"x")
    data = bytearray(path.read_bytes())
    if flag == "encrypted":
        data[data.index(b"PK\1\2") + 8] |= 1
    else:
        data[30:33] = b"Roe"  # the entry's own header
    path.write_bytes(bytes(data))
    with pytest.raises(ScanError, match=r"P012: the zip cannot be unpacked \((RuntimeError|BadZipFile)\)") as caught:
        read_scan(path)
    assert "oe" not in str(caught.value)


def test_a_damaged_zip(tmp_path):
    path = tmp_path / "P012.zip"
    path.write_bytes(b"PK\3\4 no zip")
    with pytest.raises(ScanError, match="P012: the zip cannot be unpacked"):
        read_scan(path)


def test_scans_of_every_kind_are_found(dicom, tmp_path):
    folder = dicom.write(tmp_path / "b2", dicom.make_slices(4))
    (folder / "mask.nii.gz").write_bytes(b"beside slices")
    _zip(tmp_path / "b10.zip", folder)
    _save(tmp_path / "A1.nii.gz")
    assert [name for name, _ in find_scans(tmp_path)] == ["A1", "b2", "b10"]
    assert find_scans(tmp_path / "A1.nii.gz") == [("A1", tmp_path / "A1.nii.gz")]
    _save(tmp_path / "b2.nii")
    assert [name for name, _ in find_scans(tmp_path)] == ["A1", "b2", "b2.nii", "b10"]


def test_gzip_checksum_is_compared(tmp_path):
    """One flipped bit in 40 copies: each is refused, or read with the right values."""
    path = _save(tmp_path / "x.nii.gz")
    data, refused = path.read_bytes(), 0
    for at in np.random.default_rng(0).integers(20, len(data), 40):
        damaged = bytearray(data)
        damaged[at] ^= 4
        path.write_bytes(bytes(damaged))
        try:
            volume = read_scan(path)
        except ScanError:
            refused += 1
        else:  # a bit that deflate does not use
            np.testing.assert_array_equal(volume.hu, _hu())
    assert refused > 30


def test_zips_with_odd_entries(tmp_path):
    for k, names in enumerate((["a.dcm", "a.dcm"], ["."], ["a", "a/b"])):
        path = tmp_path / f"P{k}.zip"
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # zipfile warns of the duplicate that the test wants
            for name in names:
                archive.writestr(name, b"x")
        with pytest.raises(ScanError, match=f"P{k}: "):
            read_scan(path)


def test_copies_of_a_series_do_not_swallow_their_neighbours(dicom, tmp_path):
    for name, series in (("P1", "1.1"), ("P1_copy", "1.1"), ("P2", "1.2")):
        dicom.write(tmp_path / name, dicom.make_slices(4, series=series))
    assert [name for name, _ in find_scans(tmp_path)] == ["P1", "P1_copy", "P2"]
