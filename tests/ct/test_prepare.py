"""From a folder to grey slices and masks of one size."""

import cv2
import numpy as np
import pytest

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.preprocess import lung_square, prepare_scan
from cnr_iemn.ct.resize import resize_mask, resize_square
from cnr_iemn.ct.window import window_to_uint8


def test_area_average():
    image = np.arange(16 * 16, dtype=np.float32).reshape(16, 16)
    want = image.reshape(4, 4, 4, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_square(image, 4), want, rtol=1e-6)
    np.testing.assert_array_equal(resize_square(image.astype(np.uint8), 16), image.astype(np.uint8))


def test_area_average_of_a_fractional_ratio():
    """3 pixels to 2: each takes one whole pixel and half of the middle one."""
    row = np.array([0, 90, 240], np.float32)
    image = np.tile(row, (3, 1))
    np.testing.assert_allclose(resize_square(image, 2), [[30, 190]] * 2, rtol=1e-5)


@pytest.mark.parametrize(("side", "size"), [(512, 336), (97, 40), (64, 63), (128, 32)])
def test_areas_are_those_of_opencv(side, size):
    image = np.random.default_rng(side).integers(0, 256, (side, side), np.uint8)
    want = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize_square(image.astype(np.float32), size), want, atol=1e-3)
    assert np.abs(resize_square(image, size) - want).max() <= 0.501


def test_enlarging_is_linear():
    image = np.tile(np.array([0, 100], np.float32), (2, 1))
    np.testing.assert_allclose(resize_square(image, 4), [[0, 25, 75, 100]] * 4, atol=1e-4)


def test_other_shapes_are_padded_to_a_centred_square():
    image = np.full((4, 8), 200, np.uint8)
    resized = resize_square(image, 8, fill=7)
    assert resized[2:6].tolist() == image.tolist()
    assert (resized[:2] == 7).all()
    assert (resized[6:] == 7).all()


@pytest.mark.parametrize(("window", "air"), [((-1000, 400), 0), ((-1200, 400), 28)])
def test_scan(window, air, dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:  # 48 rows of 64 columns, with two lungs in the tissue
        pixels = dicom.stored(ds)[:48].copy()
        pixels[20:40, 20:30] = pixels[20:40, 34:44] = 150
        ds.PixelData, ds.Rows, ds.PixelSpacing = pixels.tobytes(), 48, [5, 5]
    folder = scan_folder(slices)
    scan, volume = prepare_scan(folder, size=32, window=window), read_scan(folder)
    assert scan.grey.shape == scan.lungs.shape == (24, 32, 32)
    assert scan.grey.dtype == np.uint8
    assert scan.lungs.dtype == np.bool_
    assert (scan.grey[:, :4] == air).all()  # the padding of rows
    assert (scan.grey[:, -4:] == air).all()
    full = window_to_uint8(volume.hu, low=window[0], high=window[1]).astype(float)
    mean = full.reshape(24, 24, 2, 32, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(scan.grey[:, 4:-4], mean, atol=0.51)
    lungs = np.zeros((32, 32), bool)
    lungs[14:24, 10:15] = lungs[14:24, 17:22] = True
    np.testing.assert_array_equal(scan.lungs, np.broadcast_to(lungs, scan.lungs.shape))
    assert scan.lung_litres == pytest.approx(24 * 2 * 20 * 10 * 2.5 * 5 * 5 / 1e6)
    assert scan.findings == ("lung mask in doubt: 0.60 litres, lungs hold 1 to 10",)
    assert scan.spacing_mm == volume.spacing_mm
    assert scan.source_sha256 == volume.source_sha256
    np.testing.assert_array_equal(scan.z_mm, volume.z_mm)


def test_half_covered_pixels_count_as_lung(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[20:40, 21:29] = pixels[20:40, 35:43] = 150  # edges fall in the middle of a pixel of the half size
        ds.PixelData = pixels.tobytes()
    mask = prepare_scan(scan_folder(slices), size=32).lungs
    assert mask[0, 15].nonzero()[0].tolist() == [10, 11, 12, 13, 14, 17, 18, 19, 20, 21]


def test_the_square_around_the_lungs():
    """20 rows and 24 columns of lung in the middle of the scan: a side of 24 x 1.1, 27 pixels, around their centre."""
    mask = np.zeros((3, 64, 80), bool)
    mask[0, 20:36, 30:50] = True
    mask[2, 24:40, 40:54] = True
    assert lung_square(mask) == (slice(16, 43), slice(28, 55))


@pytest.mark.parametrize(
    ("rows", "columns", "want"),
    [
        (slice(0, 20), slice(30, 50), (slice(0, 22), slice(29, 51))),  # moved into the image
        (slice(44, 64), slice(60, 80), (slice(42, 64), slice(58, 80))),
        (slice(2, 62), slice(0, 80), (slice(0, 88), slice(0, 88))),  # wider than the image: all of it
        (slice(0, 0), slice(0, 0), (slice(0, 64), slice(0, 80))),  # no lung
    ],
)
def test_the_square_stays_within_the_image(rows, columns, want):
    mask = np.zeros((2, 64, 80), bool)
    mask[1, rows, columns] = True
    assert lung_square(mask) == want


def test_cropping_shows_the_lungs_and_measures_them_as_before(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[20:40, 20:30] = pixels[20:40, 34:44] = 150
        ds.PixelData = pixels.tobytes()
    folder = scan_folder(slices)
    whole, cropped = prepare_scan(folder, size=64), prepare_scan(folder, size=27, crop="lungs")
    np.testing.assert_array_equal(cropped.grey, whole.grey[:, 16:43, 18:45])
    np.testing.assert_array_equal(cropped.lungs, whole.lungs[:, 16:43, 18:45])
    assert cropped.lungs.sum() == whole.lungs.sum() > 0
    assert (cropped.lung_litres, cropped.spacing_mm) == (whole.lung_litres, whole.spacing_mm)


@pytest.mark.parametrize(("side", "size"), [(512, 336), (96, 75), (64, 63), (64, 64), (40, 80)])
def test_masks_are_resized_as_a_whole(side, size):
    """Only what holds some of a mask is resized, which gives the same pixels."""
    rng = np.random.default_rng(side)
    image = np.zeros((side, side), np.uint8)
    top, left = rng.integers(0, side // 2, 2)
    image[top : top + side // 3, left : left + side // 4] = rng.random((side // 3, side // 4)) < 0.7
    np.testing.assert_array_equal(resize_mask(image, size), resize_square(image * np.uint8(255), size) >= 128)
    assert resize_mask(image, size).any()
