"""Folders that cannot be read rightly: each is refused, and the message names file, reason and remedy."""

import re

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError


def _refused(folder, message):
    with pytest.raises(ScanError, match=message) as caught:
        read_scan(folder)
    assert str(caught.value).startswith("P012")
    return str(caught.value)


def _change(slices, index, **values):
    for keyword, value in values.items():
        if value is None:
            delattr(slices[index], keyword)
        else:
            setattr(slices[index], keyword, value)


# changes of the header of one slice (the sixth, or the last), and what the refusal must say
ONE_SLICE = {
    "IOP missing": (5, {"ImageOrientationPatient": None}, r"P012/IM0005\.dcm: ImageOrientationPatient is missing"),
    "spacing zero": (5, {"PixelSpacing": [0, 0.7]}, r"P012/IM0005\.dcm: PixelSpacing is missing"),
    "Rows missing": (5, {"Rows": None}, r"P012/IM0005\.dcm: Rows or Columns is missing"),
    "slope absent": (5, {"RescaleSlope": None}, r"P012/IM0005\.dcm: RescaleSlope or RescaleIntercept is missing"),
    "intercept absent": (
        5,
        {"RescaleIntercept": None},
        r"P012/IM0005\.dcm: RescaleSlope or RescaleIntercept is missing",
    ),
    "middle slice of another spacing": (5, {"PixelSpacing": [0.8, 0.8]}, "a split scan"),
    "last slice of another series": (23, {"SeriesInstanceUID": "9.9"}, "a split scan"),
    "frames": (5, {"NumberOfFrames": 2}, "NumberOfFrames must be 1"),
    "colour": (5, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "SamplesPerPixel is 3, must be 1"),
    "palette": (
        5,
        {"PhotometricInterpretation": "PALETTE COLOR"},
        "PhotometricInterpretation must be MONOCHROME1 or 2",
    ),
    "high bit": (5, {"HighBit": 15}, r"HighBit is 15, must be BitsStored - 1 \(11\)"),
    "bits": (5, {"BitsStored": 20}, r"BitsStored is 20, must be 2 to BitsAllocated \(16\)"),
}


@pytest.mark.parametrize("hazard", ONE_SLICE)
def test_header_of_one_slice(hazard, dicom, scan_folder):
    index, values, message = ONE_SLICE[hazard]
    slices = dicom.make_slices()
    _change(slices, index, **values)
    _refused(scan_folder(slices), message)


def test_same_position_other_pixels(dicom, scan_folder):
    slices = dicom.make_slices()
    slices[7].ImagePositionPatient = slices[6].ImagePositionPatient
    message = _refused(scan_folder([*slices[:8], slices[6], *slices[7:]]), "the same position but other pixels|missing")
    assert "missing" in message  # the seventh position is empty: that is found first, without a pixel
    other = dicom.make_slices()[6]
    other.PixelData = (dicom.stored(other) + 1).tobytes()
    folder = scan_folder([*dicom.make_slices(), other])
    _refused(folder, r"P012/IM0006\.dcm and P012/IM0024\.dcm have the same position but other pixels")


def test_a_second_series_of_half_the_length(dicom, scan_folder):
    other = dicom.make_slices(12, series="9.9")
    message = _refused(
        scan_folder([*dicom.make_slices(), *other]), "two stacks that could be the scan: 24 images of 64x64"
    )
    assert "and 12 images of 64x64" in message


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ([9], r"1 slice missing between z=-25\.0 and z=-20\.0 mm \(gap 5, usual 2\.5\)"),
        ([9, 15, 16], r"3 slices missing between z=-25\.0 and z=-20\.0 mm .*, and at 1 more places"),
    ],
)
def test_missing_slices(removed, message, dicom, scan_folder):
    _refused(scan_folder([ds for k, ds in enumerate(dicom.make_slices()) if k not in removed]), message)


@pytest.mark.parametrize(("off", "refused"), [(0.04, False), (0.06, True)])
def test_slice_distance_tolerance(off, refused, dicom, scan_folder):
    """0.05 mm at a step of 2.5 mm, where 1% is less."""
    slices = dicom.make_slices()
    slices[8].ImagePositionPatient = [-20, -20, -20 - off]
    folder = scan_folder(slices)
    if refused:
        _refused(folder, "the slice distance changes")
    else:
        np.testing.assert_array_equal(read_scan(folder).hu, dicom.expected_hu())


def test_only_localizers(dicom, scan_folder):
    slices = dicom.make_slices(2)
    for ds in slices:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    _refused(scan_folder(slices), "only localizers")


def _rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) - 8192 - 12], r"P012/IM0023\.dcm: no PixelData"),
        (lambda data: data[132:], r"P012/IM0023\.dcm: begins like a DICOM dataset, .* lies among the slices"),
        (lambda data: data[:-8192] + b"\0" * 8192, r"P012/IM0023\.dcm: every pixel is 0"),
    ],
    ids=["before pixels", "no preamble", "zeros"],
)
def test_damaged_last_file(change, message, dicom, scan_folder):
    """The last slice leaves no gap: it must be missed all the same."""
    folder = scan_folder(dicom.make_slices())
    _rewrite(folder / "IM0023.dcm", change)
    _refused(folder, message)


STREAMS = [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless]


@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("size", r"P012/IM0005\.dcm: header says 64x64, JPEG stream says 60x64"),
        ("cut", r"P012/IM0005\.dcm: the JPEG stream lacks its end marker"),
        ("text", r"P012/IM0005\.dcm: no JPEG stream in the pixel data"),
        (
            "range",
            r"P012/IM0005\.dcm: decoded range 24\.\.1039 differs from the file's own 24\.\.1051 \(0028,0106/0107\)",
        ),
    ],
)
def test_codestreams(syntax, damage, message, dicom, scan_folder):
    slices = dicom.make_slices()
    ds = slices[5]
    if damage == "size":
        ds.PixelData, ds.Rows = dicom.stored(ds)[:60].tobytes(), 60
    dicom.recode(ds, syntax)
    ds.Rows = 64
    if damage == "cut":
        stream = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = encapsulate([stream[: len(stream) // 2]])
    elif damage == "text":
        ds.PixelData = encapsulate([b"no stream at all"])
    elif damage == "range":
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 24, 1051
    _refused(scan_folder(slices), message)


def test_codestream_beyond_bits_stored(dicom, scan_folder):
    slices = dicom.make_slices()
    ds = slices[5]
    pixels = dicom.stored(ds).copy()
    pixels[0, 0] = 5000
    ds.PixelData, ds.BitsStored = pixels.tobytes(), 16
    dicom.recode(ds, uid.JPEGLosslessSV1).BitsStored = 12
    _refused(scan_folder(slices), r"P012/IM0005\.dcm: decoded values do not fit BitsStored 12")


@pytest.mark.parametrize(("vr", "offset"), [("US", 65536), ("SS", 0)])
def test_range_of_signed_pixels(vr, offset, dicom, scan_folder):
    slices = dicom.make_slices(signed=True)
    for k, ds in enumerate(slices):
        ds.add_new(0x00280106, vr, offset - 1000)
        ds.add_new(0x00280107, vr, 10 + k + (k == 9))
    _refused(
        scan_folder(slices), r"P012/IM0009\.dcm: decoded range -1000\.\.19 differs from the file's own -1000\.\.20"
    )


def test_range_that_leaves_padding_out_is_accepted(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[0] = 0
        ds.PixelData, ds.PixelPaddingValue = pixels.tobytes(), 0
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 24, int(pixels.max())
    want = dicom.expected_hu()
    want[:, 0] = -1024
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


def test_range_placeholder_is_no_statement(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 4095
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, dicom.expected_hu())


def test_values_not_in_hu(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.RescaleIntercept = 1023
    _refused(scan_folder(slices), r"values 1047\.\.\d+, no air near -1000 HU: inverted or not in HU")


def test_padding_is_no_air(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[:8] = 0
        ds.PixelData, ds.PixelPaddingValue, ds.RescaleIntercept = pixels.tobytes(), 0, 1023
    _refused(scan_folder(slices), "no air near -1000 HU")


def test_no_soft_tissue(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.RescaleIntercept = -2000
    _refused(scan_folder(slices), "no soft tissue near 0 HU")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [(uid.MPEG2MPML, "MPEG2MPML"), ("1.9.9", "missing or unknown")],
)
def test_transfer_syntax_not_read(syntax, name, dicom, scan_folder):
    slices = dicom.make_slices()
    dicom.recode(slices[5], uid.JPEG2000Lossless).file_meta.TransferSyntaxUID = syntax
    folder = scan_folder(slices[:5] + slices[6:])
    slices[5].preamble = b"\0" * 128
    slices[5].save_as(folder / "x.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    _refused(folder, rf"P012/x\.dcm: transfer syntax {name} is not read")


def test_nothing_to_read(tmp_path):
    folder = tmp_path / "P012"
    _refused(folder, r"P012: does not exist\. If its disk is not mounted, mount it")
    _refused(tmp_path / ("P012" * 80), r"cannot be reached \(File name too long\)\. Check the disk and the permissions")
    folder.mkdir()
    (tmp_path / "P012.file").touch()
    _refused(tmp_path / "P012.file", "is not a folder")
    (folder / "notes.txt").write_text("no scan")
    _refused(folder, r"found files that are not DICOM \(1\)")


def test_too_deep(dicom, tmp_path):
    dicom.write(tmp_path / "P012" / "/".join("abcdefgh"), dicom.make_slices())
    assert len(read_scan(tmp_path / "P012").hu) == dicom.n
    dicom.write(tmp_path / "P012" / "/".join("abcdefghi"), dicom.make_slices())
    with pytest.raises(ScanError, match=r"^P012/a/b/c/d/e/f/g/h/i: more than 8 folders deep"):
        read_scan(tmp_path / "P012")


def test_messages_tell_no_identity(dicom, scan_folder):
    """Neither name, nor date, nor UID of a header may leave it."""
    slices = dicom.make_slices()
    for ds in slices:
        ds.PatientName, ds.PatientID, ds.StudyDate = "Doe^Jane", "secret-id", "20200305"
    folder = scan_folder([*slices, *dicom.make_slices(series="1.2.840.9999")])
    message = _refused(folder, "two stacks")
    assert not re.search(r"Doe|secret|20200305|9999", message)
