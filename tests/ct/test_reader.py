"""Hazards of real folders that must not change one voxel, and those in the pixels' encoding."""

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from cnr_iemn.ct.reader import read_scan


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


def _scramble(slices):
    numbers = list(range(len(slices)))
    random.Random(1).shuffle(numbers)
    for ds, number in zip(slices, numbers, strict=True):
        ds.InstanceNumber = number


def _each(change):
    def apply(slices):
        for k, ds in enumerate(slices):
            change(ds, k)

    return apply


def _jitter(ds, k):
    sign = (-1) ** k
    ds.ImageOrientationPatient = [1, 1e-6 * sign, 0, 0, 1, 1e-6 * sign]
    ds.ImagePositionPatient = [-20, -20, -2.5 * k + 0.0004 * sign]


def _flip_normal(ds, k):  # rows from the front, columns from the left, as seen from the feet
    ds.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]


def _same_number(ds, k):
    ds.InstanceNumber = 1


def _dirty_high_bits(dicom):
    def change(ds, k):
        ds.PixelData = (dicom.stored(ds) | 0xA000).tobytes()

    return change


def _signed_not_extended(dicom):
    """Signed 12 bits whose sign is not carried into the upper four bits."""

    def change(ds, k):
        ds.PixelData = ((dicom.stored(ds).astype(int) - 1024) & 0x0FFF).astype("<u2").tobytes()
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0

    return change


def _rescale(k):
    return (0.3, -1000 - k) if k % 2 else (2, -1000 - 10 * k)


def _own_rescale(ds, k):
    """Each slice brings its own slope and intercept."""
    hu = np.frombuffer(ds.PixelData, "<u2").astype(int) - 1024
    slope, intercept = _rescale(k)
    values = np.where(hu == -1000, 0, np.rint((hu - intercept) / slope))
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    ds.PixelData = values.astype("<u2").tobytes()


QUIET = {
    "plain": _each(lambda ds, k: None),
    "InstanceNumber reversed": _each(lambda ds, k: setattr(ds, "InstanceNumber", 100 - k)),
    "InstanceNumber missing": _each(lambda ds, k: delattr(ds, "InstanceNumber")),
    "InstanceNumber empty": _each(lambda ds, k: setattr(ds, "InstanceNumber", None)),
    "jitter": _each(_jitter),
    "ImageType missing": _each(lambda ds, k: delattr(ds, "ImageType")),
    "MONOCHROME1": _each(lambda ds, k: setattr(ds, "PhotometricInterpretation", "MONOCHROME1")),
    "UIDs that are no UIDs": _each(lambda ds, k: setattr(ds, "SeriesInstanceUID", "b2c4-no-uid")),
    "multi-valued window": _each(lambda ds, k: setattr(ds, "WindowCenter", [50, -600])),
}
REPORTED = {
    "InstanceNumber scrambled": (_scramble, "InstanceNumber does not follow"),
    "InstanceNumber all equal": (_each(_same_number), "InstanceNumber does not follow"),
    "normal to the feet": (_each(_flip_normal), "prone?"),
    "SOPInstanceUID empty": (
        _each(lambda ds, k: setattr(ds, "SOPInstanceUID", "")),
        "24 slices share 1 SOPInstanceUID",
    ),
    "lossy": (_each(lambda ds, k: setattr(ds, "LossyImageCompression", "01")), "with loss"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, while the test writes them
@pytest.mark.parametrize("hazard", QUIET)
def test_headers_that_change_nothing(hazard, dicom, scan_folder):
    slices = dicom.make_slices()
    QUIET[hazard](slices)
    _check(scan_folder(slices), dicom)


@pytest.mark.parametrize("hazard", REPORTED)
def test_headers_that_are_reported(hazard, dicom, scan_folder):
    slices = dicom.make_slices()
    change, finding = REPORTED[hazard]
    change(slices)
    _check(scan_folder(slices), dicom, finding)


@pytest.mark.parametrize(
    "names",
    [
        [f"IM{k:04d}.dcm" for k in range(24)],
        [f"{k}" for k in range(24)],
        [f"1.2.840.113.{k}" for k in range(24)],
        [f"é '{k}' ; $(x).DCM" for k in range(24)],
    ],
    ids=["plain", "no suffix", "uid", "odd"],
)
def test_shuffled_names_of_any_kind(names, dicom, scan_folder):
    names = list(names)
    random.Random(2).shuffle(names)
    _check(scan_folder(dicom.make_slices(), names), dicom)


@pytest.mark.parametrize("bits", [_dirty_high_bits, _signed_not_extended])
def test_unused_bits(bits, dicom, scan_folder):
    slices = dicom.make_slices()
    _each(bits(dicom))(slices)
    _check(scan_folder(slices), dicom)


def test_slope_and_intercept_of_each_slice(dicom, scan_folder):
    slices = dicom.make_slices()
    _each(_own_rescale)(slices)
    hu = read_scan(scan_folder(slices)).hu
    for k, want in enumerate(dicom.expected_hu().astype(float)):
        slope, intercept = _rescale(k)
        stored = np.where(want == -1000, 0, np.rint((want - intercept) / slope))
        np.testing.assert_array_equal(hu[k], np.maximum(np.rint(stored * slope + intercept), -1024))


@pytest.mark.parametrize("value", [-2000, -500])
@pytest.mark.parametrize("vr", ["US", "SS"])
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


LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_lossless_codestreams(syntax, signed, dicom, scan_folder):
    slices = dicom.make_slices(signed=signed)
    for ds in slices:
        values = dicom.stored(ds)
        for tag, value in ((0x00280106, values.min()), (0x00280107, values.max())):
            ds.add_new(tag, "US", int(value) & 0xFFFF)  # many files say US though the pixels are signed
        if signed and syntax not in {uid.JPEG2000Lossless, uid.HTJ2KLossless}:  # these streams have no sign
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
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
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


def test_identical_copies_are_dropped(dicom, scan_folder):
    slices = dicom.make_slices()
    folder = scan_folder(slices)
    before = read_scan(folder)
    for k in (3, 20):
        shutil.copy(folder / f"IM{k:04d}.dcm", folder / f"copy{k}.dcm")
    after = _check(folder, dicom, "2 file(s) with position and pixels of another one dropped")
    assert after.source_sha256 == before.source_sha256


def _localizer(dicom, series, image_type):
    scout = dicom.make_slices(1, series=series)[0]
    scout.ImageType, scout.SOPInstanceUID = image_type, "1.2.9"
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return scout


@pytest.mark.parametrize("series", ["1.2.3", "9.9"], ids=["same series", "own series"])
@pytest.mark.parametrize("kind", ["LOCALIZER", "AXIAL"], ids=["named so", "seen by its orientation"])
def test_localizer_is_left_out(series, kind, dicom, scan_folder):
    slices = [*dicom.make_slices(), _localizer(dicom, series, ["ORIGINAL", "PRIMARY", kind])]
    _check(scan_folder(slices), dicom, "ignored")


def test_localizer_without_position_is_left_out(dicom, scan_folder):
    scout = _localizer(dicom, "9.9", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    del scout.ImagePositionPatient
    _check(scan_folder([*dicom.make_slices(), scout]), dicom, "1 localizer")


def test_short_second_series_is_left_out(dicom, scan_folder):
    short = dicom.make_slices(6, series="9.9")
    _check(scan_folder([*dicom.make_slices(), *short]), dicom, "another stack of 6 images")


def test_litter_and_other_objects_are_counted(dicom, scan_folder):
    folder = scan_folder(dicom.make_slices())
    for name, text in {
        "Thumbs.db": "x",
        "notes.txt": "slices",
        ".DS_Store": "",
        "._IM0001.dcm": "",
        "empty.log": "",
    }.items():
        (folder / name).write_text(text)
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = uid.EnhancedSRStorage
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.77"
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    volume = _check(folder, dicom, "ignored")
    assert volume.findings == ("ignored: 1 EnhancedSRStorage, 5 file that is no DICOM, 1 link",)


def test_series_spread_over_folders(dicom, tmp_path):
    slices = dicom.make_slices()
    dicom.write(tmp_path / "P012" / "a", slices[::2])
    dicom.write(tmp_path / "P012" / "b" / "c", slices[1::2])
    _check(tmp_path / "P012", dicom, "slices from 2 folders")


def test_gantry_tilt_is_kept_and_reported(dicom, scan_folder):
    tilt = np.radians(10)
    slices = dicom.make_slices()
    for ds in slices:
        ds.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    volume = read_scan(scan_folder(slices))
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())
    assert volume.spacing_mm[0] == pytest.approx(2.5 * np.cos(tilt))
    assert "gantry tilt: the slices lean by 10.0 degrees; kept as they are" in volume.findings


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
    one = read_scan(dicom.write(tmp_path / "one", slices))
    other = read_scan(dicom.write(tmp_path / "other", slices[::-1], [f"x{k}" for k in range(24)]))
    assert one.source_sha256 == other.source_sha256
    digests = sorted(hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "one").iterdir())
    assert one.source_sha256 == hashlib.sha256(b"".join(digests)).hexdigest()
    slices[5].StationName = "CT2"
    changed = read_scan(dicom.write(tmp_path / "changed", slices))
    assert changed.source_sha256 != one.source_sha256


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
