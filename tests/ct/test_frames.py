"""Enhanced multi-frame CT and deflated files: right, or refused within bounds."""

import zlib

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError


@pytest.mark.parametrize("syntax", [None, uid.JPEGLosslessSV1, uid.JPEG2000Lossless])
@pytest.mark.parametrize("shared_rescale", [True, False])
def test_frames_in_any_order(syntax, shared_rescale, dicom, scan_folder):
    order = np.random.default_rng(0).permutation(dicom.n)
    volume = read_scan(scan_folder([dicom.make_enhanced(order=order, syntax=syntax, shared_rescale=shared_rescale)]))
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())
    assert volume.spacing_mm == (2.5, 0.7, 0.7)
    np.testing.assert_allclose(volume.z_mm, -2.5 * np.arange(dicom.n))


def test_two_files_hold_one_scan(dicom, scan_folder):
    volume = read_scan(
        scan_folder([dicom.make_enhanced(order=range(11)), dicom.make_enhanced(order=range(11, dicom.n))])
    )
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())


def test_a_frame_missing_in_the_middle(dicom, scan_folder):
    ds = dicom.make_enhanced(order=[k for k in range(dicom.n) if k != 9])
    with pytest.raises(ScanError, match=r"1 slice missing between z=-25\.0 and z=-20\.0"):
        read_scan(scan_folder([ds]))


@pytest.mark.parametrize("frames", [0, 23, 25, 10**6, 2**40])
def test_number_of_frames(frames, dicom, scan_folder):
    ds = dicom.make_enhanced()
    ds.NumberOfFrames = frames
    with pytest.raises(
        ScanError, match=r"P012/IM0000\.dcm: NumberOfFrames must be 1 to 20,000 and equal the 24 frames"
    ):
        read_scan(scan_folder([ds]))


@pytest.mark.parametrize("syntax", [None, uid.JPEGLosslessSV1])
def test_pixels_of_fewer_frames(syntax, dicom, scan_folder):
    ds = dicom.make_enhanced(syntax=syntax)
    if syntax:
        ds.PixelData = encapsulate(list(generate_frames(ds.PixelData, number_of_frames=24))[:23])
    else:
        ds.PixelData = ds.PixelData[: -64 * 64 * 2]
    message = "pixel data holds no image|23 compressed images for 24 frames" if syntax else "needs 196,608"
    with pytest.raises(ScanError, match=message):
        read_scan(scan_folder([ds]))


def test_legacy_converted(dicom, scan_folder):
    ds = dicom.make_enhanced()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.LegacyConvertedEnhancedCTImageStorage
    np.testing.assert_array_equal(read_scan(scan_folder([ds])).hu, dicom.expected_hu())


def _deflated(dicom):
    slices = dicom.make_slices()
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    return slices


def test_deflated(dicom, scan_folder):
    np.testing.assert_array_equal(read_scan(scan_folder(_deflated(dicom))).hu, dicom.expected_hu())


def test_deflate_bomb(dicom, scan_folder):
    folder = scan_folder(_deflated(dicom))
    path = folder / "IM0005.dcm"
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    bomb = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    path.write_bytes(data[:end] + b"".join(bomb.compress(bytes(2**24)) for _ in range(40)) + bomb.flush())
    assert path.stat().st_size < 700_000
    with pytest.raises(ScanError, match=r"P012/IM0005\.dcm: inflates to more than 67,108,864 bytes"):
        read_scan(folder)


def test_damaged_deflate_stream(dicom, scan_folder):
    folder = scan_folder(_deflated(dicom))
    path = folder / "IM0005.dcm"
    data = path.read_bytes()
    path.write_bytes(data[:400] + bytes(50) + data[450:])
    with pytest.raises(ScanError, match=r"P012/IM0005\.dcm"):
        read_scan(folder)


def test_a_header_longer_than_what_is_read_at_once(dicom, scan_folder):
    """Private data of 300 kB before the pixels: all of it is passed over, nothing is taken for the pixels."""
    slices = dicom.make_slices()
    for ds in slices[::3]:
        ds.add_new(0x00091010, "OB", b"\x01" * 300_000)
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, dicom.expected_hu())
