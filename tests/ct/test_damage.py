"""Damaged pixel data: what is claimed to be found is found, and good files of every codec pass."""

import re
from collections import Counter
from types import SimpleNamespace

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from benchmarks.damage import CODECS, KINDS, make_slice
from benchmarks.fuzz import count, undetected, write_jobs
from cnr_iemn.ct.io import hounsfield
from cnr_iemn.ct.io.pixel_data import decode_pixels, frames_of
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.io.slice_header import read_headers
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions

pytestmark = pytest.mark.slow

TOLERANT = ReadOptions(allow_range_mismatch=True)


def chest(seed=0):
    """Stored values of a chest made by code, uint16 [256, 256]."""
    return (make_slice("native", np.random.default_rng(seed))[1].astype(np.int32) + 1024).astype(np.uint16)


def shifted_row(image):
    """What the check of rows says of a slice alone, None where it is good."""
    check, pixels = hounsfield.RowCheck(), SimpleNamespace(transfer_syntax=uid.JPEGLosslessSV1)
    check.add(image, SimpleNamespace(name="a.dcm", pixels=pixels))
    try:
        check.verify()
    except ScanError as error:
        return str(error)
    return None


def lossless(image, **how):
    return imagecodecs.jpeg8_encode(image, lossless=True, **{"predictor": 1, "bitspersample": 12, **how})


# --- every codec


@pytest.mark.parametrize("codec", CODECS)
def test_good_files_pass(codec, tmp_path):
    rng = np.random.default_rng(1)
    for _ in range(5):
        content, hu = make_slice(codec, rng)
        path = tmp_path / "a.dcm"
        path.write_bytes(content)
        (header,) = read_headers(path, "a.dcm")
        stored = decode_pixels(frames_of(content, header.pixels, "a.dcm")[0], header.pixels, "a.dcm")
        np.testing.assert_array_equal(stored.astype(int) - 1024, hu)


@pytest.mark.parametrize(
    ("codec", "kinds"),
    [
        ("JPEG Lossless", ["zeros", "noise", "block missing", "cut"]),
        ("JPEG-LS", ["zeros", "noise", "block missing", "cut"]),
        ("JPEG 2000", ["block missing", "cut"]),
        ("HTJ2K", ["noise", "block missing", "cut"]),
        ("native", ["block missing", "cut"]),
    ],
)
def test_damage_of_many_bytes_is_found(codec, kinds, tmp_path):
    rng = np.random.default_rng(2)
    slices = [make_slice(codec, rng) for _ in range(4)]
    counts = count(write_jobs(tmp_path, codec, slices, 60 * len(KINDS), header=False, seed=3))
    assert {kind: undetected(counts[kind]) for kind in kinds} == dict.fromkeys(kinds, 0)
    assert not any(counts[kind]["hung"] for kind in KINDS)


def test_flipped_bits_that_shift_a_row_plainly_are_mostly_found(tmp_path):
    rng = np.random.default_rng(4)
    slices = [make_slice("JPEG Lossless", rng) for _ in range(4)]
    counts = count(write_jobs(tmp_path, "JPEG Lossless", slices, 100 * len(KINDS), header=False, seed=5))
    for kind in ("bit flipped", "byte changed"):
        assert counts[kind]["plainly wrong"] <= 3


# --- JPEG Lossless streams that do not fit their pixels


def test_a_damaged_stream_is_refused_unless_allowed(dicom, scan_folder):
    slices = [dicom.recode(ds, uid.JPEGLosslessSV1) for ds in dicom.make_slices()]
    (stream,) = generate_frames(slices[3].PixelData, number_of_frames=1)
    end = stream.rindex(b"\xff\xd9")
    slices[3].PixelData = encapsulate([stream[:end] + b"\x01\x02\x03\x04" + stream[end:]])
    folder = scan_folder(slices)
    with pytest.raises(
        ScanError, match=r"P012/IM0003\.dcm: its pixels take .* bits.*ingest\.allow_range_mismatch=true"
    ):
        read_scan(folder)
    volume = read_scan(folder, TOLERANT)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())
    assert any("JPEG streams not checked (ingest.allow_range_mismatch)" in finding for finding in volume.findings)


# --- rows shifted up to their end


@pytest.mark.parametrize("shift", [-80, 64, 300])
@pytest.mark.parametrize("start", [70, 150, 220])
def test_a_shifted_row_is_found(shift, start):
    image = chest().astype(np.int32) + 500
    image[120, start:] += shift
    result = shifted_row(image)
    assert result is not None
    assert int(re.search(r"row (\d+) lies", result)[1]) == 120
    assert float(re.search(r"lies ([+-]\d+) off", result)[1]) == pytest.approx(shift, rel=0.25)


def test_a_shifted_row_is_refused_unless_allowed(dicom, scan_folder):
    slices = dicom.make_slices()
    images = [chest(seed) for seed in range(len(slices))]
    images[17][60, 100:] += 90
    for ds, image in zip(slices, images, strict=True):
        ds.PixelData = encapsulate([lossless(image)])  # a valid stream: only the image tells
        ds.Rows, ds.Columns, ds.RescaleIntercept = 256, 256, -1024
        ds["PixelData"].VR, ds.file_meta.TransferSyntaxUID = "OB", uid.JPEGLosslessSV1
    folder = scan_folder(slices)
    refusal = r"IM0017\.dcm: the end of pixel row 60 lies \+\d+ off .*allow_range_mismatch=true"
    with pytest.raises(ScanError, match=refusal):
        read_scan(folder)
    want = np.stack(images).astype(int) - 1024
    np.testing.assert_array_equal(read_scan(folder, TOLERANT).hu, want)


def test_good_images_have_no_shifted_row(monkeypatch):
    monkeypatch.setattr(hounsfield, "_MAX_SCORE", 0.7 * hounsfield._MAX_SCORE)  # with a margin
    for seed in range(60):
        image = chest(seed)
        for turned in (image, image[::-1], image[:, ::-1], image.T, np.rot90(image)):
            assert shifted_row(np.ascontiguousarray(turned)) is None


def _line(rows_changed, columns, value, blur=0.0):
    layer = np.zeros((256, 256), np.float32)
    layer[rows_changed, columns] = value
    return cv2.GaussianBlur(layer, (0, 0), blur) if blur else layer


@pytest.mark.parametrize(
    "structure",
    [
        _line(slice(100, None), slice(None), 700),
        _line(slice(100, 102), slice(None), 700),
        _line(slice(100, 101), slice(None), 700),
        _line(slice(100, 101), slice(90, None), 700, 0.7),
        _line(slice(100, 101), slice(70, 200), 700),
        _line(slice(0, 40), slice(None), -3000),
    ],
    ids=["edge", "two rows", "a row from border to border", "blurred line", "line within", "band of padding"],
)
@pytest.mark.parametrize("noise", [True, False])
def test_structures_are_no_shifted_rows(structure, noise):
    image = chest().astype(np.int32) if noise else np.full((256, 256), 1000)
    assert shifted_row((image + structure).round().clip(0, 4095).astype(np.uint16)) is None


# --- headers


@pytest.mark.parametrize("values", [{"RescaleIntercept": -1025}, {"RescaleSlope": 9}])
def test_a_single_slice_with_a_rescaling_of_its_own_is_refused_unless_allowed(values, dicom, scan_folder):
    slices = dicom.make_slices()
    for keyword, value in values.items():
        setattr(slices[7], keyword, value)
    folder = scan_folder(slices)
    with pytest.raises(ScanError, match=r"P012/IM0007\.dcm: RescaleSlope or .* damaged header.*allow_range_mismatch"):
        read_scan(folder)
    assert read_scan(folder, TOLERANT).hu.shape == (24, 64, 64)


def test_two_slices_with_a_rescaling_of_their_own_are_read(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices[7:9]:
        ds.RescaleIntercept = -1020
    want = dicom.expected_hu()
    want[7:9] += 4
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, want)


def test_headers_are_never_read_wrong_and_never_end_the_process(tmp_path):
    """But for digits of the rescaling, which one file alone cannot tell."""
    rng = np.random.default_rng(8)
    slices = [make_slice("JPEG Lossless", rng) for _ in range(2)]
    counts = sum(count(write_jobs(tmp_path, "JPEG Lossless", slices, 300, header=True, seed=0)).values(), Counter())
    assert counts["process lost"] == counts["hung"] == undetected(counts) == 0
    assert counts["refused"] > 100


# --- real scans


def test_real_slices_have_a_margin_and_their_damage_is_found(sample_root, monkeypatch):
    monkeypatch.setattr(hounsfield, "_MAX_SCORE", 0.6 * hounsfield._MAX_SCORE)
    paths = sorted(sample_root.rglob("*.dcm"))
    assert len(paths) == 470
    check, images = hounsfield.RowCheck(), []
    for path in paths:
        (header,) = read_headers(path, path.name)
        (frame,) = frames_of(path.read_bytes(), header.pixels, path.name)
        images.append(decode_pixels(frame, header.pixels, path.name))
        check.add(images[-1], header)
    check.verify()
    monkeypatch.undo()
    detections = 0
    for k, image in enumerate(images[::10]):
        damaged = image.astype(np.int32)
        damaged[100 + 6 * k, 150 + 3 * k :] += 128
        detections += shifted_row(damaged) is not None
    assert detections >= 0.8 * len(images[::10])
