"""Window and channels."""

import numpy as np
import pytest

from cnr_iemn.ct.window import three_channels, window_to_uint8
from cnr_iemn.errors import ConfigurationError


@pytest.mark.parametrize(("low", "high"), [(-1000, 400), (-1350, 150), (-160.5, 240.25)])
def test_every_hu_value(low, high):
    hu = np.arange(-(2**15), 2**15).astype(np.int16).reshape(16, 64, 64)
    grey = window_to_uint8(hu, low=low, high=high)
    exact = np.clip((hu.astype(float) - low) / (high - low), 0, 1) * 255
    assert grey.dtype == np.uint8
    assert grey.shape == hu.shape
    assert np.abs(grey - exact).max() <= 0.5 + 1e-9


def test_ends_and_middle():
    hu = np.array([-32768, -1024, -1000, -998, -997, -300, 397, 399, 400, 3000], np.int16)
    assert window_to_uint8(hu).tolist() == [0, 0, 0, 0, 1, 128, 254, 255, 255, 255]


def test_views_are_read_rightly():
    hu = np.arange(-1000, 400, dtype=np.int16).reshape(20, 70)
    np.testing.assert_array_equal(window_to_uint8(hu.T[::2]), window_to_uint8(hu).T[::2])


@pytest.mark.parametrize(("low", "high"), [(400, -1000), (0, 0)])
def test_window_the_wrong_way_round(low, high):
    with pytest.raises(ConfigurationError, match="the first value must be the lower one"):
        window_to_uint8(np.zeros(3, np.int16), low=low, high=high)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_three_channels(dtype):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (2, 5, 6), dtype=np.uint8)
    mask = rng.integers(0, 2, (2, 5, 6)).astype(dtype)
    channels = three_channels(grey, mask)
    assert channels.shape == (2, 3, 5, 6)
    assert channels.dtype == np.uint8
    np.testing.assert_array_equal(channels[:, 0], grey)
    np.testing.assert_array_equal(channels[:, 1], np.where(mask, 255, 0))
    np.testing.assert_array_equal(channels[:, 2], np.where(mask, grey, 0))
