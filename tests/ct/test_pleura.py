"""lungs=pleura: against the known lungs of phantoms, whole and with a part of one lung consolidated."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.lungs import consolidated, dice, one_lung
from cnr_iemn.ct.lungs import juxtapleural, parameters, segment_lungs
from cnr_iemn.ct.lungs.juxtapleural import ANGLES, N_RAYS, RADII, LungRays, look_up, ray_grid
from cnr_iemn.phantom.renderer import make_scan

pytestmark = pytest.mark.slow

UNKNOWN = (np.nan, np.nan, np.nan)


@pytest.fixture(scope="module", params=[100, 103])
def scan(request):
    """A scan at half the real matrix; its known lungs hold neither trachea nor bowel gas."""
    return make_scan(request.param, "Normal", rows=256, n_slices=(60, 90))


@pytest.fixture(scope="module")
def fine():
    """Some slices at the real matrix, whose pixels are joined two by two on the way."""
    return make_scan(104, "Normal", rows=512, n_slices=(16, 24))


def test_clean_lungs(scan):
    found = segment_lungs(scan.hu, scan.spacing_mm)
    assert dice(found.mask, scan.lungs) >= 0.97
    assert found.findings == ()
    assert found.litres == pytest.approx(np.count_nonzero(scan.lungs) * np.prod(scan.spacing_mm) / 1e6, rel=0.05)


def test_clean_lungs_at_the_real_matrix(fine):
    assert dice(segment_lungs(fine.hu, fine.spacing_mm).mask, fine.lungs) >= 0.97


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("shape", "least_dice", "least_kept"),
    [
        ("dependent", 0.95, 0.7),
        ("lateral", 0.95, 0.7),
        ("lower lobe", 0.93, 0.5),
        ("along the ribs", 0.93, 0.5),
    ],
)
def test_two_fifths_of_a_lung_consolidated_to_the_pleura(shape, least_dice, least_kept, side, scan):
    hu, dense = consolidated(scan, shape, side, 0.4)
    found = segment_lungs(hu, scan.spacing_mm)
    border = segment_lungs(hu, scan.spacing_mm, method="border").mask
    kept = np.count_nonzero(found.mask & dense) / np.count_nonzero(dense)
    print(f"{shape}, {side}: Dice {dice(found.mask, scan.lungs):.4f}, border rule {dice(border, scan.lungs):.3f}")
    print(f"kept {kept:.3f}")
    assert dice(found.mask, scan.lungs) >= least_dice
    assert kept > least_kept
    assert np.count_nonzero(border & dense) < 0.02 * np.count_nonzero(dense)
    assert any("ml of dense tissue at the pleura count as lung" in finding for finding in found.findings)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("shape", ["base", "front"])
def test_what_may_be_diaphragm_or_heart_is_not_guessed(shape, side, scan):
    """Nothing in a threshold's reach tells a consolidated base from a high diaphragm."""
    hu, dense = consolidated(scan, shape, side, 0.4)
    found = segment_lungs(hu, scan.spacing_mm)
    border = segment_lungs(hu, scan.spacing_mm, method="border").mask
    assert np.count_nonzero(found.mask & dense) < 0.3 * np.count_nonzero(dense)
    assert dice(found.mask, scan.lungs) > dice(border, scan.lungs)


def test_what_stands_out_of_the_wall_between_rays_goes():
    wall = np.full((3, N_RAYS), 100, np.float32)
    wall[1, 120:140] = 140  # 20 degrees wide
    wall[2, 120:140] = 108
    wall[:, 40] = np.nan
    found = juxtapleural._cut_bulges(wall)
    np.testing.assert_array_equal(found[:2, 41:], np.full((2, N_RAYS - 41), 100))
    np.testing.assert_array_equal(found[2], wall[2])
    assert np.isnan(found[:, 40]).all()


def test_prone(scan):
    """Rows from the back to the front: the same mask, turned."""
    hu, _ = consolidated(scan, "dependent", "left", 0.3)
    supine = segment_lungs(hu, scan.spacing_mm)
    prone = segment_lungs(np.ascontiguousarray(hu[:, ::-1, ::-1]), scan.spacing_mm)
    assert dice(prone.mask[:, ::-1, ::-1], supine.mask) > 0.995


def test_a_single_slice(scan):
    hu, _ = consolidated(scan, "lateral", "right", 0.2)
    index = len(hu) // 2
    lungs, alone = scan.lungs[index], hu[index : index + 1]
    known = segment_lungs(alone, scan.spacing_mm)
    guessed = segment_lungs(alone, UNKNOWN)
    border = segment_lungs(alone, scan.spacing_mm, method="border")
    assert dice(border.mask[0], lungs) < dice(known.mask[0], lungs)
    assert dice(known.mask[0], lungs) > 0.95
    assert dice(guessed.mask[0], lungs) > 0.95
    assert np.isnan(guessed.litres)


def test_unknown_spacing_of_a_whole_scan(scan):
    hu, _ = consolidated(scan, "dependent", "right", 0.3)
    known, guessed = (segment_lungs(hu, spacing).mask for spacing in (scan.spacing_mm, UNKNOWN))
    assert dice(known, guessed) > 0.97


def test_without_bones_nothing_is_added(scan):
    hu, _ = consolidated(scan, "lateral", "right", 0.3)
    soft = np.minimum(hu, 150)
    found = segment_lungs(soft, scan.spacing_mm).mask
    border = segment_lungs(soft, scan.spacing_mm, method="border").mask
    assert np.count_nonzero(found & ~border) < 0.001 * np.count_nonzero(border)


def test_gas_in_the_bowel_is_no_lung(scan):
    """A loop of 6 cm below the diaphragm, joined to the lung by a thin place in its wall."""
    hu = scan.hu.copy()
    row_mm = scan.spacing_mm[1]
    lung = one_lung(scan.lungs, "left")
    index = int(np.flatnonzero(lung.any(axis=(1, 2)))[-1]) - 6
    column = int(np.median(np.nonzero(lung[index])[1]))
    behind = np.flatnonzero(lung[index, :, column])  # in front of the lung there, at times, and behind the diaphragm
    row = int(behind[np.flatnonzero(np.diff(behind) > 1)[-1] + 1]) if (np.diff(behind) > 1).any() else int(behind[0])
    y, x = np.indices(hu.shape[1:])
    loop = np.hypot(y - row + 34 / row_mm, x - column) * row_mm < 30
    bridge = (np.abs(x - column) < 2) & (y <= row + 3) & (y > row - 8 / row_mm)
    hu[index - 3 : index + 3, loop & ~scan.lungs[index]] = -990
    hu[index, bridge] = -990
    border = segment_lungs(hu, scan.spacing_mm, method="border").mask
    found = segment_lungs(hu, scan.spacing_mm).mask
    gas = loop & ~scan.lungs[index]
    assert np.count_nonzero(border[index] & gas) > 0.9 * np.count_nonzero(gas)
    assert np.count_nonzero(found[index] & gas) < 0.05 * np.count_nonzero(gas)
    assert dice(found, scan.lungs) > 0.97


def test_emphysema_stays(scan):
    """Lungs nearly as empty as gas: nothing is taken out of them. Their edge is another matter."""
    hu = scan.hu.copy()
    hu[scan.lungs & (hu < -700)] -= 110
    border = segment_lungs(hu, scan.spacing_mm, method="border").mask
    found = segment_lungs(hu, scan.spacing_mm).mask
    inside = ndimage.binary_erosion(border, np.ones((1, 3, 3)))
    assert np.count_nonzero(scan.lungs & inside & ~found) < 0.001 * np.count_nonzero(scan.lungs)


def test_scipy_gives_the_same_mask(scan, monkeypatch):
    pytest.importorskip("cc3d")
    hu, _ = consolidated(scan, "lateral", "left", 0.3)
    fast = segment_lungs(hu, scan.spacing_mm)
    monkeypatch.setitem(sys.modules, "cc3d", None)
    slow = segment_lungs(hu, scan.spacing_mm)
    np.testing.assert_array_equal(fast.mask, slow.mask)
    assert fast.findings == slow.findings


def test_no_lungs():
    hu = np.full((4, 64, 64), 40, np.int16)
    found = segment_lungs(hu, (2.0, 2.0, 2.0))
    assert not found.mask.any()
    assert found.findings == ("lung mask in doubt: no lungs found",)


def test_rays_meet_a_disc_where_geometry_says():
    """A disc of lung of 40 mm about the centre, ribs at 60 mm: in a slice whose pixels are not square."""
    y, x = np.indices((200, 150), dtype=float)
    radius = np.hypot((y - 100) * 1.0, (x - 75) * 1.5)
    samples, pixels = ray_grid(100.0, 75.0, (1, 200, 150), (2.0, 1.0, 1.5))
    lung, bone = look_up((radius <= 40)[None], samples), look_up((np.abs(radius - 62) <= 2)[None], samples)
    rays = juxtapleural._trace(lung, bone, np.cos(ANGLES), 2.0)
    assert rays.lung.any(axis=2).all()
    np.testing.assert_allclose(rays.last, 40, atol=2.1)
    np.testing.assert_allclose(rays.rib, 60, atol=2.1)
    between = (rays.last[..., None] < RADII) & (rays.rib[..., None] > RADII)
    assert dice(look_up(between, pixels)[0], (radius > 40) & (radius < 60)) > 0.93


def test_mirrored_rays_lie_across_the_midline():
    np.testing.assert_allclose(np.sin(ANGLES[::-1]), np.sin(ANGLES), atol=1e-12)
    np.testing.assert_allclose(np.cos(ANGLES[::-1]), -np.cos(ANGLES), atol=1e-12)


def test_the_diaphragm_falls_from_the_lowest_lung_nearer_to_the_middle():
    """Lung to slice 10 within 30 mm and to slice 5 beyond: where no recess is seen, the estimate falls from there."""
    lung = np.zeros((20, N_RAYS, len(RADII)), bool)
    lung[:11, :, :16] = True
    lung[:6, :, 16:] = True
    last = np.where(np.arange(20) < 6, 158, np.where(np.arange(20) < 11, 30, 0))[:, None] * np.ones(N_RAYS, np.float32)
    rays = LungRays(lung, np.float32(last), np.full_like(last, 162, np.float32), np.cos(ANGLES), 4.0)
    far = juxtapleural._find_diaphragm(rays, np.full(last.shape, 160, np.float32))
    np.testing.assert_allclose(far[:, -1], 40 + parameters.FALL_PER_MM * RADII[-1] ** 2, rtol=1e-5)
    seen = juxtapleural._find_diaphragm(rays, np.full(last.shape, 35, np.float32))
    np.testing.assert_array_equal(seen, 40)
