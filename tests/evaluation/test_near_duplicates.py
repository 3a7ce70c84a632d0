"""Re-exports of phantoms are found across the split, other scans of the same cohort are not."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from benchmarks.near_duplicates import AGAIN, volumes_of
from benchmarks.re_exports import Scan, re_exports, same_body
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.coarse_volumes import CELLS, coarse_volume
from cnr_iemn.evaluation.near_duplicates import SIMILARITY, find_near_duplicates
from cnr_iemn.phantom.renderer import PhantomScan, make_scan
from cnr_iemn.schemas import TRAINING, VALIDATION

SLICES = (30, 32)
N = 16
PLANTED = 2
KINDS = (*re_exports(np.zeros((4, 8, 8), np.int16), (5.0, 3.0, 3.0), np.random.default_rng(0)), AGAIN)


@cache
def scan(number: int) -> PhantomScan:
    return make_scan(70_000 + number, SPGC_CLASSES[number % 3], rows=96, n_slices=SLICES)


@cache
def cohort() -> dict[str, np.ndarray]:
    scans: dict[str, Scan] = {f"s{k}": (scan(k).hu, scan(k).spacing_mm) for k in range(N)}
    return volumes_of(scans)


@cache
def copies(number: int) -> dict[str, np.ndarray]:
    original = scan(number)
    kinds = re_exports(original.hu, original.spacing_mm, np.random.default_rng(number))
    return volumes_of(kinds | {AGAIN: same_body(original, n_slices=SLICES)})


def sides(extra: dict[str, str] | None = None) -> pd.DataFrame:
    """Of each pair of scans the first trains and the second validates."""
    split = {f"s{k}": VALIDATION if k % 2 else TRAINING for k in range(N)}
    return pd.DataFrame({"split": pd.Series({**split, **(extra or {})})})


@pytest.mark.slow
def test_scans_of_different_patients_raise_no_alarm() -> None:
    found = find_near_duplicates(sides(), cohort())
    assert found is not None
    assert (found["n"], found["pairs"]) == (64, [])
    assert found["highest"] < SIMILARITY - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_exported_again_is_found_and_nothing_else(kind: str) -> None:
    for number in range(0, 2 * PLANTED, 2):  # training scans
        found = find_near_duplicates(sides({"copy": VALIDATION}), cohort() | {"copy": copies(number)[kind]})
        assert found is not None
        assert [(pair["training"], pair["validation"]) for pair in found["pairs"]] == [(f"s{number}", "copy")]
        assert found["highest"] == found["pairs"][0]["similarity"] >= SIMILARITY


def test_a_copy_on_the_same_side_or_on_none_is_no_pair() -> None:
    volumes = cohort() | {"copy": cohort()["s0"]}
    for side in (TRAINING, ""):
        found = find_near_duplicates(sides({"copy": side}), volumes)
        assert found is not None
        assert found["pairs"] == []
    found = find_near_duplicates(sides({"copy": VALIDATION}), volumes)
    assert found is not None
    assert found["pairs"][0]["similarity"] == pytest.approx(1)


def test_without_a_scan_on_a_side_there_is_nothing_to_compare() -> None:
    assert find_near_duplicates(sides(), {"s0": cohort()["s0"]}) is None


def test_equal_scans_throughout_give_no_division_by_zero() -> None:
    flat = dict.fromkeys(("s0", "s1"), np.ones((CELLS,) * 3, np.float32))
    found = find_near_duplicates(sides(), flat)
    assert found is not None
    assert found["highest"] == 0


def test_cells_are_means_over_a_box_around_the_lungs() -> None:
    """Lungs of 24 slices fill 20 rows and columns: with the margin a cell is two slices, two rows and two columns."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (30, 40, 50), dtype=np.uint8)
    lungs = np.zeros_like(grey)
    lungs[3:27, 10:30, 20:40] = 1
    volume = coarse_volume(grey, lungs)
    assert volume is not None
    assert volume.shape == (CELLS, CELLS, CELLS)
    tail, margin = 0.02 * 20, 0.1 * 0.96 * 20
    row, column = (np.linspace(first + tail - margin, first + 20 - tail + margin, CELLS + 1) for first in (10, 20))
    for i, j, k in ((2, 0, 11), (7, 5, 6)):  # cells by sums over fine steps
        inside = [np.linspace(edges[c], edges[c + 1], 2001)[:-1].astype(int) for edges, c in ((row, j), (column, k))]
        plane = np.array([image[np.ix_(*inside)].mean() for image in grey.astype(float)])
        low, high = 3.5 - 0.9, 26.5 + 0.9  # where the area is a tenth of the largest, between two slices' centres
        depth = np.linspace(low + i * (high - low) / CELLS, low + (i + 1) * (high - low) / CELLS, 2001)[:-1]
        assert volume[i, j, k] == pytest.approx(plane[depth.astype(int)].mean(), abs=0.3)
    assert coarse_volume(grey, lungs * 0) is None


def test_beyond_the_image_there_is_air() -> None:
    grey = np.full((20, 24, 24), 200, np.uint8)
    volume = coarse_volume(grey, np.ones_like(grey))
    assert volume is not None
    assert volume[:, 5, 5].min() == pytest.approx(200)
    assert volume[:, 0, 5].max() in (0, pytest.approx(200))
