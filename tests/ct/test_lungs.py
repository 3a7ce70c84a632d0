"""The threshold rules, border and tutorial, on bodies whose lungs are known in closed form."""

import sys

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from benchmarks.ingest import tutorial_mask
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.lungs.morphology import fill_holes
from cnr_iemn.errors import ConfigurationError

SPACING = (4.0, 3.0, 3.0)
SHAPE = (70, 112, 128)  # 280 x 336 x 384 mm
LUNG, TISSUE, AIR = -850, 40, -1000
RADII = (110.0, 85.0, 55.0)  # of each lung along z, rows and columns, mm
CENTRES = (-75.0, 75.0)  # of the two lungs along the columns, mm


def grid():
    """Coordinates in mm from the middle of the volume, [slices, 1, 1], [1, rows, 1], [1, 1, columns]."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def ellipsoid(column, radii=RADII):
    z, y, x = grid()
    return (z / radii[0]) ** 2 + (y / radii[1]) ** 2 + ((x - column) / radii[2]) ** 2 <= 1


def body(half_width=160.0):
    """An elliptic cylinder of soft tissue in air, with two ellipsoidal lungs."""
    _, y, x = grid()
    hu = np.full(SHAPE, AIR, np.int16)
    hu[np.broadcast_to((y / 120) ** 2 + (x / half_width) ** 2 <= 1, SHAPE)] = TISSUE
    known = ellipsoid(CENTRES[0]) | ellipsoid(CENTRES[1])
    hu[known] = LUNG
    return hu, known


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_two_lungs_and_their_litres():
    hu, known = body()
    hu[:, -4, 10:-10] = TISSUE  # a table that lets the air pass at both ends
    found = segment_lungs(hu, SPACING, method="border")
    np.testing.assert_array_equal(found.mask, known)
    assert found.mask.dtype == np.bool_
    closed_form = 2 * 4 / 3 * np.pi * np.prod(RADII) / 1e6
    assert found.litres == pytest.approx(closed_form, rel=0.01)
    assert found.findings == ()


def test_the_tutorial_keeps_the_largest_component():
    hu, known = body()
    right = ellipsoid(CENTRES[0], (115, 85, 55))
    hu[right] = LUNG
    np.testing.assert_array_equal(segment_lungs(hu, SPACING, method="tutorial").mask, right)
    hu[31:39, 54:58, 40:88] = LUNG  # an airway from one lung to the other
    assert dice(segment_lungs(hu, SPACING, method="tutorial").mask, known | right) > 0.99


def _table_air():
    """Air under a table that spans the image: shut off from the air above, and larger than the lungs."""
    hu, known = body()
    hu[:, 100:102] = TISSUE
    hu[:, 102:] = AIR
    small = ellipsoid(CENTRES[0], (60, 50, 35)) | ellipsoid(CENTRES[1], (60, 50, 35))
    hu[known & ~small] = TISSUE
    return hu, small


def test_table_air_is_no_lung_where_the_tutorial_takes_it():
    hu, known = _table_air()
    right = segment_lungs(hu, SPACING, method="border")
    np.testing.assert_array_equal(right.mask, known)
    wrong = segment_lungs(hu, SPACING, method="tutorial")
    assert dice(wrong.mask, known) == 0
    assert "lung mask in doubt: it touches the image border" in wrong.findings


@pytest.mark.parametrize("case", ["body", "table", "noise", "solid corner"])
def test_tutorial_is_followed_literally(case):
    rng = np.random.default_rng(3)
    if case == "noise":
        hu = rng.integers(-1000, 200, (12, 40, 40)).astype(np.int16)
    else:
        hu = (_table_air() if case == "table" else body())[0]
        if case == "solid corner":
            hu[0, :3, :3] = TISSUE
    np.testing.assert_array_equal(segment_lungs(hu, SPACING, method="tutorial").mask, tutorial_mask(hu))


@pytest.mark.parametrize("edge", [np.s_[30, :20, 40], np.s_[30, 90:, 40], np.s_[30, 56, :30], np.s_[30, 56, 100:]])
def test_lung_cut_by_the_field_of_view_is_dropped_and_flagged(edge):
    known = body()[1]
    hu = np.where(known, LUNG, TISSUE).astype(np.int16)  # the body fills the image
    hu[edge] = LUNG  # from the lung to one border
    hu[30, 18:94, 40] = LUNG
    cut = ellipsoid(CENTRES[1 if edge[2] == np.s_[100:] else 0])
    found = segment_lungs(hu, SPACING, method="border")
    np.testing.assert_array_equal(found.mask & known, known & ~cut)
    assert found.findings == ("lung mask in doubt: one side holds 0% of it, at least 15% are usual",)


def test_nodules_inside_count_as_lung():
    hu, known = body()
    inside = ellipsoid(CENTRES[0], (20, 20, 20))
    hu[inside] = TISSUE
    np.testing.assert_array_equal(segment_lungs(hu, SPACING, method="border").mask, known)


@pytest.mark.parametrize(("share", "kept"), [(0.15, True), (0.07, False)])
def test_components_of_a_tenth_of_the_largest_are_kept(share, kept):
    hu, known = body()
    largest = np.count_nonzero(ellipsoid(CENTRES[0]))
    third = (np.abs(np.arange(SHAPE[0])[:, None, None] - 35) < 20) & np.zeros(SHAPE, bool)
    columns, rows = 4, round(share * largest / (40 * 4))
    third[15:55, 56 - rows // 2 : 56 - rows // 2 + rows, 62 : 62 + columns] = True
    assert np.count_nonzero(third) == pytest.approx(share * largest, rel=0.1)
    assert not (third & known).any()
    hu[third] = AIR
    np.testing.assert_array_equal(segment_lungs(hu, SPACING, method="border").mask, known | third if kept else known)


def test_air_reaching_the_first_and_last_slice_is_lung():
    """Only the in-plane borders exclude: a scan often ends within the lungs."""
    hu, known = body()
    cut = slice(20, 50)
    assert known[cut][0].any()
    assert known[cut][-1].any()
    np.testing.assert_array_equal(segment_lungs(hu[cut], SPACING, method="border").mask, known[cut])


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("small", "0.36 litres, lungs hold 1 to 10"),
        ("dense", "mean -400 HU, lungs have -950 to -500"),
        ("empty", "no lungs found"),
        ("one", "one side holds 0% of it, at least 15% are usual"),
    ],
)
def test_doubts(change, finding):
    hu, known = body()
    spacing = SPACING
    if change == "small":
        spacing = tuple(0.437 * step for step in SPACING)
    elif change == "dense":
        hu[known] = -400
    elif change == "one":
        hu[ellipsoid(CENTRES[1])] = TISSUE
    else:
        hu[known] = TISSUE
    assert segment_lungs(hu, spacing, method="border").findings == (f"lung mask in doubt: {finding}",)


@pytest.mark.parametrize("seed", range(4))
def test_scipy_gives_the_same_bits(seed, monkeypatch):
    pytest.importorskip("cc3d")
    rng = np.random.default_rng(seed)
    hu = body()[0] if seed == 0 else _table_air()[0]
    if seed >= 2:  # many components, holes, diagonal contacts
        hu = hu[20:40] + rng.normal(0, 350, (20, *SHAPE[1:])).astype(np.int16)
    fast = segment_lungs(hu, SPACING, method="border")
    monkeypatch.setitem(sys.modules, "cc3d", None)
    slow = segment_lungs(hu, SPACING, method="border")
    assert fast.mask.any()
    np.testing.assert_array_equal(fast.mask, slow.mask)
    assert fast.litres == slow.litres


@pytest.mark.parametrize("seed", range(3))
def test_holes_are_those_that_scipy_fills(seed):
    noise = np.random.default_rng(seed).random((60, 70)) < 0.5 + 0.1 * seed
    np.testing.assert_array_equal(fill_holes(noise.astype(np.uint8)).astype(bool), binary_fill_holes(noise))


def test_unknown_method():
    with pytest.raises(
        ConfigurationError, match=r"lungs=unet is unknown\. Choose one of pleura, border, tutorial, lungmask"
    ):
        segment_lungs(body()[0], SPACING, method="unet")
