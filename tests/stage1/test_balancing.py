import os
import subprocess
import sys

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import CohortError, ConfigurationError
from cnr_iemn.stage1.data.balancing import PAPER_COPIES, balance, copies_per_class, copy_rng

PAPER_SLICES = (10_294, 2_482, 742)


def paper_labels():
    return np.random.default_rng(0).permutation(np.repeat(np.arange(3), PAPER_SLICES))


def test_the_papers_slices_become_its_9928_and_8162():
    labels = paper_labels()
    items = balance(labels, classes=SPGC_CLASSES, copies=PAPER_COPIES, augment="paper")
    np.testing.assert_array_equal(np.bincount(labels[items.source]), [10_294, 9_928, 8_162])
    assert len(items) == len(items.copy) == len(items.warped) == 10_294 + 9_928 + 8_162


def test_every_slice_appears_as_itself_and_as_each_of_its_copies_once():
    labels = np.array([1, 0, 2, 0, 1])
    items = balance(labels, classes=SPGC_CLASSES, copies={"COVID-19": 3, "CAP": 2}, augment="paper")
    pairs = list(zip(items.source.tolist(), items.copy.tolist(), strict=True))
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (2, 1), (2, 2), (3, 0)] + [
        (4, k) for k in range(4)
    ]


def test_the_paper_warps_copies_only_and_never_a_normal_slice():
    labels = paper_labels()
    items = balance(labels, classes=SPGC_CLASSES, copies=PAPER_COPIES, augment="paper")
    np.testing.assert_array_equal(items.warped, items.copy > 0)
    assert set(labels[items.source[items.warped]]) == {1, 2}


def test_all_classes_are_warped_alike_on_request():
    paper, symmetric = (
        balance([0, 0, 0, 1, 2], classes=SPGC_CLASSES, copies=PAPER_COPIES, augment=augment)
        for augment in ("paper", "all_classes")
    )
    assert symmetric.warped.all()
    np.testing.assert_array_equal(symmetric.source, paper.source)
    np.testing.assert_array_equal(symmetric.copy, paper.copy)


def test_auto_brings_each_class_nearest_to_the_largest():
    assert copies_per_class(PAPER_SLICES, classes=SPGC_CLASSES, copies="auto") == (0, 3, 13)
    assert copies_per_class([10, 8, 4, 100], classes="abcd", copies="auto") == (9, 11, 24, 0)
    labels = np.repeat(np.arange(5), [40, 100, 7, 90, 33])
    items = balance(labels, classes="abcde", copies="auto", augment="paper")
    counts_of_items = np.bincount(labels[items.source])
    assert counts_of_items.max() / counts_of_items.min() < 1.5


def test_two_classes_are_enough():
    items = balance([0, 1, 0], classes=("healthy", "ill"), copies={"ill": 1}, augment="paper")
    assert items.source.tolist() == [0, 1, 1, 2]


def test_a_class_without_slices_is_an_error_that_names_it():
    with pytest.raises(CohortError, match="class CAP"):
        balance([0, 1, 1], classes=SPGC_CLASSES, copies="auto", augment="paper")


@pytest.mark.parametrize(
    ("copies", "augment", "words"),
    [
        ({"Covid": 3}, "paper", "names Covid"),
        ({"CAP": -1}, "paper", "0 or more"),
        ("many", "paper", "copies=many"),
        (3, "paper", "copies=3"),
        ("auto", "none", "augment=none"),
    ],
)
def test_settings_that_cannot_work_are_refused(copies, augment, words):
    with pytest.raises(ConfigurationError, match=words):
        balance([0, 1, 2], classes=SPGC_CLASSES, copies=copies, augment=augment)


def test_each_item_has_a_separate_generator():
    keys = [
        (seed, scan, index, copy, epoch)
        for seed in (0, 1)
        for scan in ("P001", "P002", "cap001")
        for index in (0, 1)
        for copy in (0, 1, 2)
        for epoch in (None, 0, 1)
    ]
    drawn = [copy_rng(*key).integers(2**62) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn == [copy_rng(*key).integers(2**62) for key in keys]


def test_a_copy_stays_what_it_was_from_version_to_version():
    assert copy_rng(0, "P001", 5, 1).bit_generator.random_raw() == 2578862732998209280
    assert copy_rng(0, "P001", 5, 1, epoch=0).bit_generator.random_raw() == 15229207162028786118


def test_numpy_numbers_are_numbers():
    key = (np.int64(7), "P001", np.int64(3), np.int64(2), np.int64(1))
    assert copy_rng(*key).random() == copy_rng(7, "P001", 3, 2, 1).random()


def test_another_process_draws_the_same():
    """Python's own hash of a text differs between processes; two workers must not."""
    code = "from cnr_iemn.stage1.data.balancing import copy_rng; print(copy_rng(0, 'P001', 5, 1).integers(2**62))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(printed.stdout) == copy_rng(0, "P001", 5, 1).integers(2**62)


def test_copies_in_class_order_serve_any_name():
    classes = ("Normal", "CT-1 (<25%), 'a'=\"b\"", "0")
    assert copies_per_class([1, 1, 1], classes=classes, copies=[0, 3, 10]) == (0, 3, 10)
    assert copies_per_class([1, 1, 1], classes=classes, copies={0: 2}) == (0, 0, 2)  # Hydra reads the key as a number
    with pytest.raises(ConfigurationError, match="holds 2 numbers, but the classes are Normal"):
        copies_per_class([1, 1, 1], classes=classes, copies=[0, 3])
