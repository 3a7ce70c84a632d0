"""Perturbations of a scan by hand."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from cnr_iemn.ct.perturbations import (
    PERTURBATIONS,
    THICK,
    UNPERTURBED,
    add_noise,
    add_offset,
    crop_field,
    flip,
    merge_slice_pairs,
    sharpen,
    shift,
    smooth,
)
from cnr_iemn.ct.volume import Volume
from cnr_iemn.errors import RefusalCode, ScanError

WINDOW = (-1000.0, 400.0)


def make_volume(hu: np.ndarray) -> Volume:
    return Volume(hu, (2.0, 1.0, 1.0), 2.0 * np.arange(len(hu))[::-1], (), True, "")


def test_perturbations_by_hand() -> None:
    hu = np.arange(5 * 4 * 4, dtype=np.int16).reshape(5, 4, 4)
    volume = make_volume(hu)
    doubled = merge_slice_pairs(volume)
    np.testing.assert_array_equal(doubled.hu, [(hu[0] + hu[1]) // 2, (hu[2] + hu[3]) // 2])
    assert doubled.spacing_mm == (4.0, 1.0, 1.0)
    assert doubled.z_mm.tolist() == [7, 3]
    np.testing.assert_array_equal(flip(flip(volume)).hu, hu)
    np.testing.assert_array_equal(shift(volume).hu[:, :2, :2], hu[:, 2:, 2:])
    assert (shift(volume).hu[:, 2:] < -900).all()
    assert add_offset(replace(volume, hu=hu - 1024), -10).hu.min() == -1024


def test_a_narrower_field_is_the_centre() -> None:
    hu = np.arange(2 * 20 * 31, dtype=np.int16).reshape(2, 20, 31)
    np.testing.assert_array_equal(crop_field(make_volume(hu)).hu, hu[:, 1:19, 1:29])  # 18 of 20 rows, 28 of 31 columns


def test_noise_has_its_deviation_and_is_the_same_again() -> None:
    volume = make_volume(np.zeros((6, 64, 64), np.int16))
    noisy = add_noise(volume).hu
    assert noisy.std() == pytest.approx(10, rel=0.03)
    assert abs(noisy.mean()) < 0.3
    np.testing.assert_array_equal(noisy, add_noise(volume).hu)
    assert not np.array_equal(noisy[0], noisy[1])


def test_kernels_blur_and_raise_edges_within_a_slice_alone() -> None:
    hu = np.full((3, 32, 32), -800, np.int16)
    hu[1, :, 16:] = 0
    volume = make_volume(hu)
    blurred = smooth(volume).hu
    np.testing.assert_array_equal(blurred[[0, 2]], hu[[0, 2]])
    assert -800 < blurred[1, 16, 15] < blurred[1, 16, 16] < 0
    np.testing.assert_array_equal(blurred[1, :, [0, 31]], hu[1, :, [0, 31]])
    sharp = sharpen(volume).hu.astype(float)
    before, after = (sharp[1, :, column].mean() for column in (15, 16))
    assert after - before > 900  # the step of 800 overshoots on both sides
    assert (sharp[0] + 800).std() == pytest.approx(25, rel=0.05)
    coarse = replace(volume, spacing_mm=(2.0, 4.0, 4.0))  # the kernel is one of the scanner, in mm
    assert abs(smooth(coarse).hu - hu).max() < abs(blurred - hu).max()


def test_kernels_need_the_distance_between_pixels() -> None:
    volume = replace(make_volume(np.zeros((2, 8, 8), np.int16)), spacing_mm=(np.nan, np.nan, np.nan))
    for change in (smooth, sharpen):
        with pytest.raises(ScanError, match="distance between pixels") as refusal:
            change(volume)
        assert refusal.value.code is RefusalCode.MISSING_GEOMETRY


def test_each_changes_the_volume_or_the_window_and_no_two_alike() -> None:
    rng = np.random.default_rng(0)
    volume = make_volume(rng.integers(-1000, 300, (6, 40, 40)).astype(np.int16))
    results = {name: pickle.loads(pickle.dumps(entry)).apply(volume, WINDOW) for name, entry in PERTURBATIONS.items()}
    same, window = UNPERTURBED.apply(volume, WINDOW)
    assert same is volume
    assert window == WINDOW
    assert [name for name, (_, changed) in results.items() if changed != WINDOW] == ["window 100 HU wider"]
    assert results["window 100 HU wider"] == (volume, (-1050.0, 450.0))
    assert len({(changed.hu.tobytes(), wide) for changed, wide in results.values()}) == len(PERTURBATIONS)
    assert [name for name, (changed, _) in results.items() if len(changed.hu) < 6] == [THICK]
    for changed, _ in results.values():
        assert changed.hu.dtype == np.int16
        assert changed.hu.min() >= -1024
