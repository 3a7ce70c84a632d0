"""The diaphragm's top is no lung, what lies on it is, and the mask's edge lies where the lung ends."""

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.lungs import high_dome, ml_below
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.lungs.exclusions import find_domes
from cnr_iemn.ct.lungs.morphology import refine
from cnr_iemn.phantom.renderer import make_scan

pytestmark = pytest.mark.slow

SPACING = (4.0, 2.0, 2.0)
SHAPE = (40, 120, 120)
LUNG_HU, TISSUE_HU = -860, 40


def at_mm():
    """Depth below the first slice and distance from the middle column, mm, for all voxels."""
    z, y, x = np.indices(SHAPE)
    return z * SPACING[0], np.hypot(y - 60, x - 60) * SPACING[1]


def ball(depth, out, *, height, radius):
    return (depth - height) ** 2 + out**2 < radius**2


def domes_of(tissue):
    """What is found in one round lung of 22 cm that holds this."""
    _, out = at_mm()
    lung = (out < 110) & ~tissue
    filled = np.stack([ndimage.binary_fill_holes(image) for image in lung])
    return find_domes(lung, filled, SPACING), filled


def diaphragm(top_mm, radius_mm=90.0):
    """A dome that takes all of the lung in the end."""
    depth, out = at_mm()
    return (depth > top_mm) & (out < np.sqrt(np.maximum(2 * radius_mm * (depth - top_mm), 0)))


def test_the_top_of_the_diaphragm_is_found_from_ten_square_centimetres_on():
    tissue = diaphragm(62.5)
    found, filled = domes_of(tissue)
    area = np.count_nonzero(tissue & filled, axis=(1, 2)) * 0.04
    assert (found == (tissue & filled & (area >= 10)[:, None, None])).all()
    assert np.count_nonzero((area > 0) & (area < 10)) == 1
    assert found.any(axis=(1, 2)).sum() > 5


@pytest.mark.parametrize("radius", [15.0, 30.0])
def test_what_no_tissue_is_below_stays_lung(radius):
    """Sections of 7 and of 28 square centimetres, with lung below."""
    found, _ = domes_of(ball(*at_mm(), height=60, radius=radius))
    assert not found.any()


def test_a_nodule_on_the_diaphragm_stays_lung():
    nodule = ball(*at_mm(), height=78, radius=17)  # 34 mm in diameter, 9 square centimetres
    dome = diaphragm(90.0)
    found, _ = domes_of(dome | nodule)
    assert not (found & nodule & ~dome).any()
    assert found.any()


def test_a_mass_with_a_neck_stays_lung_above_it():
    """Its lower half narrows: what lies above does not rest on tissue all around."""
    mass = ball(*at_mm(), height=60, radius=30)
    dome = diaphragm(84.0)
    found, _ = domes_of(dome | mass)
    depth, _ = at_mm()
    assert not (found & (depth < 76)).any()


@pytest.mark.parametrize("seed", [100, 200])
def test_a_phantoms_lungs_hold_less_than_half_of_the_diaphragm_that_the_border_rule_has(seed):
    scan = make_scan(seed, "Normal", rows=256, n_slices=(60, 90))

    def thick_excess(method):
        """Soft tissue outside the known lungs, of 2 cm and more in its slice, in cm3."""
        mask = segment_lungs(scan.hu, scan.spacing_mm, method=method).mask & ~scan.lungs & (scan.hu > -100)
        disc = np.hypot(*np.indices((15, 15)) - 7.0) * scan.spacing_mm[1] <= 10
        thick = sum(int(ndimage.binary_opening(image, disc).sum()) for image in mask if image.sum() > disc.sum())
        return thick * np.prod(scan.spacing_mm) / 1000

    assert thick_excess("border") > 10
    assert thick_excess("pleura") < thick_excess("border") / 2


@pytest.mark.parametrize(("lung_hu", "blur"), [(-860, 0.6), (-860, 1.0), (-450, 0.8)])
def test_the_edge_lies_where_the_lung_ends(lung_hu, blur):
    """A disc of known area, aerated or of ground glass: the threshold draws the one too large, the other too small."""
    radius, centre, side = 50.3, 63.8, 128
    fine = (np.arange(side * 8) + 0.5) / 8 - 0.5
    inside = np.hypot(*np.meshgrid(fine - centre, fine - centre)) < radius
    share = ndimage.gaussian_filter(inside.reshape(side, 8, side, 8).mean(axis=(1, 3)), blur)
    hu = np.rint(TISSUE_HU + share * (lung_hu - TISSUE_HU)).astype(np.int16)[None]
    lungs, none = hu <= -320, np.zeros(hu.shape, bool)
    found = refine(hu, lungs, none, none, 1, 1)
    true = np.pi * radius**2
    error, of_threshold = (abs(np.count_nonzero(mask) / true - 1) for mask in (found, lungs))
    print(f"{lung_hu} HU, blur {blur}: {error:.4f}, threshold {of_threshold:.4f}")
    assert error < 0.003
    assert error < of_threshold / 2


@pytest.mark.parametrize(
    ("seed", "side", "centimetres", "limit_ml"),
    [
        (100, "left", 8, 2),
        (102, "left", 5, 2),
        (105, "left", 6.5, 2),
        (105, "left", 8, 2),
        (101, "right", 8, 6),
        (104, "right", 5, 6),
    ],
)
def test_nothing_below_a_high_diaphragm_is_lung(seed, side, centimetres, limit_ml):
    """Neither liver, spleen and stomach nor gas, 8 mm and more from the known lungs on that side of the body."""
    scan = high_dome(seed, side, centimetres)
    found = segment_lungs(scan.hu, scan.spacing_mm)
    half = (np.arange(scan.hu.shape[2]) >= scan.hu.shape[2] / 2) == (side == "left")
    ml = np.prod(scan.spacing_mm) / 1000
    below = ml_below(scan, found.mask, side)
    more = np.count_nonzero(found.mask & half & ~scan.lungs) * ml
    lost = np.count_nonzero(scan.lungs & ~found.mask) / np.count_nonzero(scan.lungs)
    print(f"{below:.1f} ml below, {more:.1f} ml more, {lost:.4f} lost")
    assert below < limit_ml
    assert more < 40
    assert lost < 0.01
    assert found.findings == ()
