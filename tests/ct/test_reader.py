"""Hazards of real folders that must not change one voxel, and those in the pixels' encoding."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from cnr_iemn.ct.io.reader import read_scan


def _check(folder, dicom, finding=None):
    volume = read_scan(folder)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())
    assert volume.hu.dtype == np.int16
    np.testing.assert_allclose(volume.z_mm, -dicom.step * np.arange(dicom.n), atol=1e-3)
    assert volume.spacing_mm == pytest.approx((2.5, 0.7, 0.7), abs=1e-3)
    if finding is None:
        assert volume.findings == ()
    else:
        assert any(finding in text for text in volume.findings), volume.findings
    return volume


def _per_file(change):
    def apply(slices):
        for k, ds in enumerate(slices):
            change(ds, k)

    return apply


def _flip_normal(ds, k):  # rows from the front, columns from the left, as seen from the feet
    ds.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]


HARMLESS = {
    "plain": _per_file(lambda ds, k: None),
    "UIDs that are no UIDs": _per_file(lambda ds, k: setattr(ds, "SeriesInstanceUID", "b2c4-no-uid")),
    "multi-valued window": _per_file(lambda ds, k: setattr(ds, "WindowCenter", [50, -600])),
}
REPORTED = {
    "normal to the feet": (_per_file(_flip_normal), "prone?"),
    "SOPInstanceUID empty": (
        _per_file(lambda ds, k: setattr(ds, "SOPInstanceUID", "")),
        "24 slices share 1 SOPInstanceUID",
    ),
    "lossy": (_per_file(lambda ds, k: setattr(ds, "LossyImageCompression", "01")), "with loss"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, while the test writes them
@pytest.mark.parametrize("hazard", HARMLESS)
def test_headers_that_change_nothing(hazard, dicom, scan_folder):
    slices = dicom.make_slices()
    HARMLESS[hazard](slices)
    _check(scan_folder(slices), dicom)


@pytest.mark.parametrize("hazard", REPORTED)
def test_headers_that_are_reported(hazard, dicom, scan_folder):
    slices = dicom.make_slices()
    change, finding = REPORTED[hazard]
    change(slices)
    _check(scan_folder(slices), dicom, finding)


@pytest.mark.parametrize(("vr", "value"), [("US", -2000), ("US", -500), ("SS", -500)])
def test_padding_becomes_air(vr, value, dicom, scan_folder):
    slices = dicom.make_slices(signed=True)
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[:4] = value
        ds.PixelData = pixels.tobytes()
        ds.add_new(0x00280120, vr, value if vr == "SS" else 65536 + value)
    want = dicom.expected_hu()
    want[:, :4] = -1024
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


def test_padding_inside_the_usual_range_becomes_air(dicom, scan_folder):
    """The padding value counts even where its HU would be tissue; the limit of its range too."""
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[:2], pixels[2:4] = 3000, 3005
        ds.PixelData, ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = pixels.tobytes(), 3000, 3005
    want = dicom.expected_hu()
    want[:, :4] = -1024
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEGLossless], ids=["native", "RLE", "JPEG"])
@pytest.mark.parametrize("value", [-32768, -2000, 0x7000])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_padding_beyond_bits_stored_becomes_air(signed, value, syntax, dicom, scan_folder):
    """12 bits stored, and padding that needs all 16: without its upper bits it would look like tissue."""
    slices = dicom.make_slices(signed=signed)
    for ds in slices:
        pixels = dicom.stored(ds).astype(int)
        pixels[:4] = value if signed or value > 0 else 65536 + value
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 16, 15
        ds.PixelData = (pixels & 0xFFFF).astype("<u2").tobytes()
        if syntax == uid.RLELossless:
            ds.compress(syntax, generate_instance_uid=False)
        elif syntax:
            dicom.recode(ds, syntax)
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = int(signed), 12, 11
        ds.add_new(0x00280120, "SS", value)
    want = dicom.expected_hu()
    want[:, :4] = -1024
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


def test_a_range_of_padding_beyond_bits_stored(dicom, scan_folder):
    """What lies in it becomes air; other values beyond the bits are dirt and lose their upper bits."""
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds) | 0x4000
        pixels[:2], pixels[2:4], pixels[4:6] = 0x8000, 0x8010, 0x8011
        ds.PixelData, ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = pixels.tobytes(), 0x8000, 0x8010
    want = dicom.expected_hu()
    want[:, :4] = -1024
    want[:, 4:6] = 0x11 - 1024
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_signed_codestreams(syntax, dicom, scan_folder):
    slices = dicom.make_slices(signed=True)
    for ds in slices:
        values = dicom.stored(ds)
        for tag, value in ((0x00280106, values.min()), (0x00280107, values.max())):
            ds.add_new(tag, "US", int(value) & 0xFFFF)  # many files say US though the pixels are signed
        if syntax not in {uid.JPEG2000Lossless, uid.HTJ2KLossless}:  # these streams have no sign
            ds.PixelData, ds.PixelRepresentation = values.astype("<u2").tobytes(), 0
            dicom.recode(ds, syntax).PixelRepresentation = 1
        else:
            dicom.recode(ds, syntax)
    _check(scan_folder(slices), dicom)


def test_jpeg_extended_is_read_and_reported_as_lossy(dicom, scan_folder):
    slices = [dicom.recode(ds, uid.JPEGExtended12Bit) for ds in dicom.make_slices()]
    volume = read_scan(scan_folder(slices))
    assert any("with loss" in text for text in volume.findings)
    np.testing.assert_allclose(volume.hu, dicom.expected_hu(), atol=3)


@pytest.mark.parametrize(
    ("syntax", "signed"),
    [
        (uid.ImplicitVRLittleEndian, False),
        (uid.ImplicitVRLittleEndian, True),
        (uid.ExplicitVRBigEndian, True),
        (uid.DeflatedExplicitVRLittleEndian, True),
        (uid.RLELossless, True),
    ],
)
def test_native_and_rle(syntax, signed, dicom, scan_folder):
    slices = dicom.make_slices(signed=signed)
    for ds in slices:
        values = dicom.stored(ds)
        vr = "SS" if signed else "US"
        ds.add_new(0x00280106, vr, int(values.min()))
        ds.add_new(0x00280107, vr, int(values.max()))
        if syntax == uid.RLELossless:
            ds.compress(uid.RLELossless, generate_instance_uid=False)
        else:
            ds.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            ds.PixelData = values.astype(">i2" if signed else ">u2").tobytes()
            ds["PixelData"].VR = "OW"
    _check(scan_folder(slices), dicom)


def _localizer(dicom, series, image_type):
    scout = dicom.make_slices(1, series=series)[0]
    scout.ImageType, scout.SOPInstanceUID = image_type, "1.2.9"
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return scout


def test_localizer_without_position_is_left_out(dicom, scan_folder):
    scout = _localizer(dicom, "9.9", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    del scout.ImagePositionPatient
    _check(scan_folder([*dicom.make_slices(), scout]), dicom, "1 localizer")


def test_short_second_series_is_left_out(dicom, scan_folder):
    short = dicom.make_slices(6, series="9.9")
    _check(scan_folder([*dicom.make_slices(), *short]), dicom, "another stack of 6 images")


def test_rows_and_columns_are_not_mixed_up(dicom, scan_folder):
    """Rectangular pixels and images: PixelSpacing names the row distance first."""
    slices = dicom.make_slices()
    for ds in slices:
        ds.PixelData, ds.Rows = dicom.stored(ds)[:48].tobytes(), 48
        ds.PixelSpacing = [0.8, 0.7]
    volume = read_scan(scan_folder(slices))
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu()[:, :48])
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert volume.findings == ("pixels are not square: 0.800 x 0.700 mm",)


def test_source_hash_knows_contents_only(dicom, tmp_path):
    slices = dicom.make_slices()
    first = read_scan(dicom.write(tmp_path / "one", slices))
    other = read_scan(dicom.write(tmp_path / "other", slices[::-1], [f"x{k}" for k in range(24)]))
    assert first.source_sha256 == other.source_sha256
    digests = sorted(hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "one").iterdir())
    assert first.source_sha256 == hashlib.sha256(b"".join(digests)).hexdigest()
    shutil.copy(tmp_path / "one" / "IM0003.dcm", tmp_path / "one" / "copy.dcm")
    assert read_scan(tmp_path / "one").source_sha256 == other.source_sha256
    slices[5].StationName = "CT2"
    changed = read_scan(dicom.write(tmp_path / "changed", slices))
    assert changed.source_sha256 != first.source_sha256


@pytest.mark.parametrize(("value", "phantom"), [("YES", True), ("NO", False), (None, False)])
def test_phantoms_say_so(value, phantom, dicom, scan_folder):
    slices = dicom.make_slices()
    if value:
        slices[7].QualityControlImage = value
    assert read_scan(scan_folder(slices)).phantom is phantom


def test_relative_path_gives_the_folder_its_name(dicom, scan_folder, monkeypatch):
    folder = scan_folder(dicom.make_slices())
    monkeypatch.chdir(folder)
    _check(Path("."), dicom)
