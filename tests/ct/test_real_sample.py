"""The three public scans of COVID-CT-MD: order, labels and lungs."""

import csv
import random
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import uid
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import roc_auc_score

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.pixel_data import decode_pixels, frames_of
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.io.slice_header import read_headers
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.preprocess import prepare_scan

pytestmark = pytest.mark.slow

SLICES = {"P001": 148, "cap001": 168, "normal001": 154}
LITRES = {"P001": (5, 7), "cap001": (5, 7), "normal001": (3, 4)}


@pytest.fixture(scope="module")
def folders(sample_root):
    return dict(find_scans(sample_root))


@pytest.fixture(scope="module")
def scans(folders):
    """Volume and lungs of each scan, read once."""
    volumes = {scan_id: read_scan(folders[scan_id]) for scan_id in SLICES}
    return {scan_id: (volume, segment_lungs(volume.hu, volume.spacing_mm)) for scan_id, volume in volumes.items()}


@pytest.fixture(scope="module")
def infected(sample_root):
    """Infected slices by the corrected labels, by the position of the scan's line in Index.csv."""
    with (sample_root / "Index.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row["Folder/ID"] for row in csv.DictReader(file)]
    labels = np.load(sample_root / "Slice-level-labels-updated-1.npy", allow_pickle=False)
    return {scan_id: labels[rows.index(scan_id)] != 0 for scan_id in ("P001", "cap001")}


def test_the_sample_holds_these_scans(folders):
    assert set(folders) == set(SLICES)


@pytest.mark.parametrize("scan_id", SLICES)
def test_volume(scan_id, scans):
    volume, _ = scans[scan_id]
    assert volume.hu.shape == (SLICES[scan_id], 512, 512)
    np.testing.assert_allclose(np.diff(volume.z_mm), -2, atol=1e-6)  # head first
    assert volume.spacing_mm[0] == 2
    assert volume.hu.min() == -1024
    assert volume.findings == ()
    assert not volume.phantom


@pytest.mark.parametrize("scan_id", SLICES)
def test_head_is_at_the_first_slice(scan_id, scans):
    """At the top there is the trachea, in the middle of the image, and hardly anything else."""
    volume, _ = scans[scan_id]
    air = segment_lungs(volume.hu, volume.spacing_mm, method="border").mask
    area = air.sum(axis=(1, 2))
    assert 0 < area[0] < 0.02 * area.max()
    columns = np.flatnonzero(air[0].any(axis=0))
    assert 200 < columns.min() <= columns.max() < 312


@pytest.mark.parametrize("scan_id", SLICES)
def test_lungs(scan_id, scans):
    volume, lungs = scans[scan_id]
    assert LITRES[scan_id][0] < lungs.litres < LITRES[scan_id][1]
    assert not any("in doubt" in finding for finding in lungs.findings)
    for edge in (lungs.mask[:, 0], lungs.mask[:, -1], lungs.mask[:, :, 0], lungs.mask[:, :, -1]):
        assert not edge.any()
    inside = [(lungs.mask[k] & ~_body(volume.hu[k])).any() for k in range(0, len(volume.hu), 5) if lungs.mask[k].any()]
    assert inside
    assert not any(inside)


@pytest.mark.parametrize("scan_id", SLICES)
def test_trachea_is_no_lung(scan_id, scans):
    """Where the border rule finds one small part of air, above the apexes, it is the trachea."""
    volume, lungs = scans[scan_id]
    air = segment_lungs(volume.hu, volume.spacing_mm, method="border").mask
    pieces = [cv2.connectedComponents(image.astype(np.uint8))[0] - 1 for image in air[:20]]
    single = next(k for k, count in enumerate(pieces) if count != 1)
    assert single >= 4
    assert np.count_nonzero(lungs.mask[:single]) * np.prod(volume.spacing_mm) < 50  # cubic millimetres


def test_gas_in_the_colon_is_no_lung(scans):
    """In cap001 a thin diaphragm joins it to the left lung; the last slices hold no other air."""
    volume, lungs = scans["cap001"]
    border = segment_lungs(volume.hu, volume.spacing_mm, method="border").mask
    assert np.count_nonzero(border[162:]) * np.prod(volume.spacing_mm) > 30e3
    assert np.count_nonzero(lungs.mask[162:]) * np.prod(volume.spacing_mm) < 0.5e3


@pytest.mark.parametrize("scan_id", ["P001", "cap001"])
def test_disease_at_the_pleura_is_lung(scan_id, scans):
    """What the mask adds to the border rule's, in the diseased lower halves, is tissue and not air."""
    volume, lungs = scans[scan_id]
    border = segment_lungs(volume.hu, volume.spacing_mm, method="border").mask
    added = lungs.mask & ~border
    assert np.count_nonzero(added) * np.prod(volume.spacing_mm) > 20e3
    assert -320 < volume.hu[added].mean() < 60


def test_the_stomach_below_the_recess_is_no_lung(scans):
    """In P001 the recess beside the stomach ends at slices 120 to 123: nothing is filled between its two ends."""
    volume, lungs = scans["P001"]
    border = segment_lungs(volume.hu, volume.spacing_mm, method="border").mask
    added = np.count_nonzero((lungs.mask & ~border)[118:126, :, 256:], axis=(1, 2))
    assert (added * np.prod(volume.spacing_mm[1:]) < 150).all()  # square millimetres


# side, degrees from the side towards the back, share of the lungs' height, radius in mm
INSERTED = [(side, angle, height, 25) for side in (-1, 1) for angle in (0, 30, 60) for height in (0.35, 0.5, 0.65)] + [
    (-1, 30, 0.5, 35),
    (1, 60, 0.5, 35),
    (1, 60, 0.65, 15),
]


@pytest.mark.parametrize(("side", "angle", "height", "radius"), INSERTED)
def test_a_consolidation_at_the_pleura_of_a_healthy_lung_is_kept(side, angle, height, radius, scans):
    volume, healthy = scans["normal001"]
    dense = _ball_at_the_pleura(volume, healthy.mask, side=side, angle=angle, height=height, radius=radius)
    hu = volume.hu.copy()
    hu[dense] = np.rint(np.random.default_rng(0).normal(30, 15, np.count_nonzero(dense)))
    remaining = segment_lungs(hu, volume.spacing_mm).mask & dense
    border = segment_lungs(hu, volume.spacing_mm, method="border").mask & dense
    share, share_border = (np.count_nonzero(mask) / np.count_nonzero(dense) for mask in (remaining, border))
    print(f"kept {share:.3f}, border rule {share_border:.3f}")
    assert share >= 0.95
    assert share_border < 0.1


def _ball_at_the_pleura(volume, lungs, *, side, angle, height, radius):
    """The part in one lung of a ball about a point of its costal surface; side -1 is the right."""
    present = np.flatnonzero(lungs.sum(axis=(1, 2)) > 2000)
    z = int(present[0] + height * (present[-1] - present[0]))
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    half = (np.arange(lungs.shape[2]) - (columns[0] + columns[-1]) / 2) * side > 0
    rows, across = np.nonzero(lungs[z] & half)
    y, x = rows - rows.mean(), across - across.mean()
    towards = np.sin(np.radians(angle)), side * np.cos(np.radians(angle))
    on_ray = np.abs(y * towards[1] - x * towards[0]) < 1.5
    far = np.argmax(np.where(on_ray, y * towards[0] + x * towards[1], -np.inf))
    at = np.indices(lungs.shape, sparse=True)
    centre = (z, rows[far], across[far])
    squares = [((axis - c) * mm) ** 2 for axis, c, mm in zip(at, centre, volume.spacing_mm, strict=True)]
    return (squares[0] + squares[1] + squares[2] < radius**2) & lungs & half


def _body(hu):
    """The filled outline of the largest piece of tissue of a slice."""
    tissue = (hu > -320).astype(np.uint8)
    outlines, _ = cv2.findContours(tissue, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros_like(tissue)
    cv2.drawContours(body, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return body.astype(bool)


def test_tutorial_takes_table_air_on_the_normal_scan(scans):
    volume, lungs = scans["normal001"]
    result = segment_lungs(volume.hu, volume.spacing_mm, method="tutorial")
    assert not (result.mask & lungs.mask).any()
    assert 4 < result.litres < 6
    assert "lung mask in doubt: it touches the image border" in result.findings


@pytest.mark.parametrize(("scan_id", "count"), [("P001", 80), ("cap001", 86)])
def test_label_direction_by_opacity(scan_id, count, scans, infected):
    """Slices labelled infected hold more opacity when labels are read head first than when they are reversed.

    Opacity: -700 to 100 HU, at least 4 pixels inside the mask (its rim is partial volume), as a share of the mask,
    averaged over 9 slices.
    """
    volume, lungs = scans[scan_id]
    n = SLICES[scan_id]
    labels, beyond = infected[scan_id][:n], infected[scan_id][n:]
    assert labels.sum() == count
    assert not beyond.any()
    share = [_opacity(hu, mask) for hu, mask in zip(volume.hu, lungs.mask, strict=True)]
    smooth = uniform_filter1d(np.array(share), 9)
    head_first, reversed_ = (roc_auc_score(labels, values) for values in (smooth, smooth[::-1]))
    centre = roc_auc_score(labels, -np.abs(np.arange(n) - (n - 1) / 2))
    print(f"{scan_id}: AUC head first {head_first:.2f}, reversed {reversed_:.2f}; position alone {centre:.2f}")
    assert head_first >= 0.85
    assert head_first - reversed_ >= 0.15


def _opacity(hu, mask):
    core = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    return np.count_nonzero(core & (hu > -700) & (hu < 100)) / max(np.count_nonzero(mask), 1)


def test_renamed_shuffled_and_recoded_copies_give_the_same_bits(folders, dicom, tmp_path):
    original = prepare_scan(folders["P001"])
    paths = sorted(folders["P001"].iterdir())
    random.Random(4).shuffle(paths)
    codes = [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLossless]
    folder = tmp_path / "other name"
    for k, path in enumerate(paths):
        _recode(path, codes[k % len(codes)], dicom, folder / f"{k}")
    copy = prepare_scan(folder)
    np.testing.assert_array_equal(copy.grey, original.grey)
    np.testing.assert_array_equal(copy.lungs, original.lungs)
    np.testing.assert_array_equal(copy.z_mm, original.z_mm)
    assert copy.lung_litres == original.lung_litres
    assert copy.findings == original.findings
    assert copy.source_sha256 != original.source_sha256


def _decoded(path: Path) -> np.ndarray:
    pixels = read_headers(path, path.name)[0].pixels
    return decode_pixels(frames_of(path.read_bytes(), pixels, path.name)[0], pixels, path.name)


def _recode(path: Path, syntax: str, dicom, target: Path) -> None:
    pixels = _decoded(path)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.PixelData = pixels.astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        if syntax != uid.ExplicitVRLittleEndian:
            dicom.recode(ds, syntax)
        dicom.write(target.parent, [ds], [target.name])


def test_decoded_pixels_equal_those_of_another_decoder(folders):
    import imagecodecs
    from pydicom.encaps import generate_frames

    path = sorted(folders["cap001"].iterdir())[80]
    ours = _decoded(path)
    with pydicom.config.disable_value_validation():
        stream = next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))
    np.testing.assert_array_equal(ours, imagecodecs.jpegsof3_decode(stream))
