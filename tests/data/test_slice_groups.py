import math
from fractions import Fraction

import numpy as np
import pytest

from cnr_iemn.data.cohort import assign_slice_groups


@pytest.mark.parametrize("parts", [5, 20])
@pytest.mark.parametrize("n_slices", [1, 7, 19, 20, 21, 150])
def test_part_is_the_floor_of_the_exact_fraction(n_slices: int, parts: int) -> None:
    expected = [math.floor(Fraction(parts * index, n_slices)) for index in range(n_slices)]
    found = assign_slice_groups(n_slices, parts)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_small_scans_by_hand() -> None:
    assert assign_slice_groups(7, 5).tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert assign_slice_groups(1, 20).tolist() == [0]
    assert assign_slice_groups(19, 20).tolist() == list(range(19))  # the last group is the empty one
    assert assign_slice_groups(21, 20).tolist() == [0, 0, *range(1, 20)]


@pytest.mark.parametrize("n_slices", [20, 21, 39, 150, 187])
def test_parts_differ_by_at_most_one_slice(n_slices: int) -> None:
    sizes = np.bincount(assign_slice_groups(n_slices, 20), minlength=20)
    assert sizes.sum() == n_slices
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(("n_slices", "parts"), [(0, 5), (5, 0), (-1, 20)])
def test_counts_below_one_are_refused(n_slices: int, parts: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_slice_groups(n_slices, parts)
