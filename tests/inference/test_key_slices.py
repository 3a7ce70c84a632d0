"""Key slices, and their pictures: window, outline, marks and map."""

import numpy as np
import pytest

from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.inference.explanation import key_slices
from cnr_iemn.inference.slice_images import MARK, SIDE, apply_lung_window, draw_pictures


def test_the_key_slice_has_the_highest_probability_in_the_groups_with_the_largest_contribution() -> None:
    """30 slices: group g of 20 holds the slices i with floor(20 i / 30) = g, such as 6 and 7 in group 4."""
    probabilities = np.full((2, 30, 3), 0.1, np.float32)
    probabilities[0, 7, 2] = 0.9  # by one of two models alone
    probabilities[:, 6, 2] = 0.4
    probabilities[:, 20, 2] = 0.99  # in a group that speaks against
    by_group = np.zeros((2, 20))
    by_group[:, 4] = 1.5, -0.5
    by_group[:, 13] = -2
    by_group[0, 19] = 0.2
    first, second = key_slices(by_group, [probabilities], 2)
    assert (first.index, first.group, first.contribution) == (7, 4, 1.0)
    assert first.probability == pytest.approx(0.5)
    assert (second.group, second.contribution) == (19, 0.2)
    assert not key_slices(-np.abs(by_group), [probabilities], 2)
    assert len(key_slices(np.ones((1, 20)), [probabilities, probabilities], 0)) == 3


def test_without_contributions_the_most_probable_slices_of_different_groups_are_shown() -> None:
    probabilities = np.full((2, 30, 3), 0.1, np.float32)
    probabilities[:, 6, 2], probabilities[:, 7, 2] = 0.8, 0.9  # of one group
    probabilities[:, 20, 2] = 0.7
    probabilities[:, 29, 2] = 0.6
    keys = key_slices(None, [probabilities], 2)
    assert [(key.index, key.contribution) for key in keys] == [(7, None), (20, None), (29, None)]
    assert [key.probability for key in keys] == pytest.approx([0.9, 0.7, 0.6])


def test_a_group_without_slices_is_not_shown() -> None:
    by_group = np.zeros((1, 20))
    by_group[0, 1], by_group[0, 2] = 5, 1  # ten slices: the groups with odd numbers are empty
    assert [key.index for key in key_slices(by_group, [np.full((1, 10, 2), 0.5, np.float32)], 0)] == [1]


def test_the_lung_window_is_that_of_the_hounsfield_units() -> None:
    hu = np.arange(-1000, 401, dtype=np.int16)[None]
    direct = window_to_uint8(hu, low=-1350, high=150).astype(int)
    windowed = apply_lung_window(window_to_uint8(hu, low=-1000, high=400), window=(-1000, 400)).astype(int)
    assert np.abs(direct - windowed).max() <= 1
    assert windowed[0, 0] == 60  # (-1000 + 1350) / 1500 of 255
    assert windowed[0, -1] == 255


def test_pictures_have_outline_marks_and_a_map_that_is_clear_at_zero() -> None:
    grey, mask = np.full((96, 96), 100, np.uint8), np.zeros((96, 96), np.uint8)
    mask[30:60, 20:40] = 1
    raised = np.zeros((SIDE, SIDE), np.float32)
    raised[240:, 200:300] = 1
    plain, overlay = (
        image.astype(int) for image in draw_pictures(grey, mask, raised, mark_sides=True) if image is not None
    )
    bare = draw_pictures(grey, mask, None, mark_sides=False)[0].astype(int)
    assert plain.shape == (SIDE, SIDE, 3)
    orange = (bare[..., 2] - bare[..., 0]) > 60
    rows, columns = np.nonzero(orange)
    assert (abs(rows.min() - 120), abs(rows.max() - 239), abs(columns.min() - 80), abs(columns.max() - 159)) < (4,) * 4
    changed = np.abs(plain - bare).max(axis=2) > 60
    assert changed[:, : MARK + 8].any()  # R
    assert changed[:, -MARK - 8 :].any()  # L
    assert not changed[:, MARK + 8 : -MARK - 8].any()
    differs = np.abs(overlay - plain).max(axis=2)
    assert (differs[260:370, 210:290] > 30).all()
    assert not differs[:220].any()
    assert draw_pictures(grey, mask, None, mark_sides=True)[1] is None
