import numpy as np
import pytest

from cnr_iemn.data.cohort import assign_slice_groups
from cnr_iemn.stage2.baselines import HISTOGRAM_EDGES, summarise_scan


def random_scan(n_slices: int = 23, side: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (n_slices, side, side), dtype=np.uint8), rng.random((n_slices, side, side)) < 0.3


def test_measurements_equal_direct_formulas_on_the_voxels() -> None:
    grey, lungs = random_scan()
    hu = -1000 + grey.astype(float) * 1400 / 255
    found = summarise_scan(grey, lungs, litres=3.2)
    assert found.litres == 3.2
    assert found.mean_hu == pytest.approx(hu[lungs].mean())
    counts, _ = np.histogram(hu[lungs], bins=HISTOGRAM_EDGES)
    np.testing.assert_allclose(found.histogram, counts / lungs.sum())
    assert len(found.histogram) == 28
    dense = lungs & (hu > -700)
    assert found.dense_share == pytest.approx(dense.sum() / lungs.sum())
    assert found.dense_left == pytest.approx(dense[:, :, 10:].sum() / dense.sum())  # columns 0 to 19: the middle is 9.5
    assert found.dense_asymmetry == pytest.approx(abs(dense[:, :, 10:].sum() - dense[:, :, :10].sum()) / dense.sum())
    group = assign_slice_groups(23, 20)
    expected = [hu[group == k][lungs[group == k]].mean() for k in range(20)]
    np.testing.assert_allclose(found.group_mean_hu, expected)
    np.testing.assert_allclose(found.slice_area, lungs.mean(axis=(1, 2)))


def test_the_window_is_inverted_and_masks_of_0_and_1_are_the_same_as_booleans() -> None:
    grey, lungs = random_scan()
    wide = summarise_scan(grey, lungs.astype(np.uint8), litres=1.0, window=(-1200.0, 600.0))
    assert wide.mean_hu == pytest.approx((-1200 + grey[lungs].astype(float) * 1800 / 255).mean())
    assert wide.histogram.sum() == pytest.approx(1)  # what lies beyond the bins counts in the outermost ones
    np.testing.assert_array_equal(wide.slice_area, summarise_scan(grey, lungs, litres=1.0).slice_area)


def test_left_is_the_half_with_the_higher_columns_about_the_mask_s_centre() -> None:
    lungs = np.zeros((4, 30, 30), dtype=bool)
    lungs[:, 10:20, 2:8] = lungs[:, 10:20, 12:18] = True  # both lungs in one half of the image
    grey = np.full(lungs.shape, 20, dtype=np.uint8)  # about -890 HU
    grey[:, 10:20, 14:16] = 120  # about -340 HU
    found = summarise_scan(grey, lungs, litres=3.0)
    assert (found.dense_left, found.dense_asymmetry) == (1.0, 1.0)
    grey[:, 10:20, 4:6] = 120
    assert summarise_scan(grey, lungs, litres=3.0).dense_left == 0.5


def test_what_is_empty_is_missing() -> None:
    grey, lungs = random_scan(7)
    lungs[2] = False
    found = summarise_scan(grey, lungs, litres=3.0)
    assert np.isnan(found.group_mean_hu).sum() == 20 - 7 + 1
    nothing = summarise_scan(grey, np.zeros_like(lungs), litres=0.0)
    assert np.isnan([nothing.mean_hu, nothing.dense_share, nothing.dense_left]).all()
    assert np.isnan(nothing.histogram).all()
    np.testing.assert_array_equal(nothing.slice_area, 0)
    healthy = summarise_scan(np.zeros_like(grey), lungs, litres=3.0)
    assert healthy.dense_share == 0
    assert np.isnan(healthy.dense_left)
