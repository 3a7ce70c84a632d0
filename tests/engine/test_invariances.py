"""What must not change an answer, and what must: other files of the same pixels, the other end first, a lesion put in.

On phantoms with the study that the tests train; on the real sample, where there is one, with the same networks.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import generate_frames

from benchmarks.insertions import lesion_at, steps_of
from benchmarks.perturbations import flipped, offset, shifted, thick
from benchmarks.robustness import Answer, Change, Study
from benchmarks.single_lesions import prepared
from cnr_iemn.cohort.phantom.insertion import insert_lesion
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.ct.reader import read_scan
from cnr_iemn.ct.volume import Volume
from cnr_iemn.engine.prediction import OneScan

SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
)


@pytest.fixture(scope="module")
def study(tiny_study: Path) -> Study:
    return Study(tiny_study / "runs", "tiny", "resnext50+densenet161")


@pytest.fixture(scope="module")
def phantom(tiny_study: Path) -> Path:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    return cohort.parent / "COVID-19 subjects" / "P005"


@pytest.fixture(scope="module")
def original(study: Study, phantom: Path) -> tuple[PreparedScan, Answer]:
    scan = prepared(read_scan(phantom), study.ensemble.pixels)
    return scan, study.answer(scan)


@pytest.fixture(scope="module")
def healthy(sample_root: Path) -> Volume:
    return read_scan(sample_root / "Normal subjects" / "normal001")


def thinned(volume: Volume) -> Volume:
    """Every fourth slice, for speed."""
    step, row, column = volume.spacing_mm
    return replace(volume, hu=volume.hu[::4].copy(), z_mm=volume.z_mm[::4], spacing_mm=(4 * step, row, column))


def every_fourth(folder: Path) -> list[Path]:
    """The files of the slices that ``thinned`` keeps."""

    def height(path: Path) -> float:
        with pydicom.config.disable_value_validation():
            return float(pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2])

    return sorted(folder.iterdir(), key=height, reverse=True)[::4]


def recoded(paths: Sequence[Path], target: Path, syntaxes: Sequence[str]) -> Path:
    """Write slices anew in other transfer syntaxes, under other names and in another order."""
    target.mkdir()
    paths = list(paths)
    random.Random(3).shuffle(paths)
    for k, path in enumerate(paths):
        with pydicom.config.disable_value_validation():
            image = pydicom.dcmread(path)
            stream = next(generate_frames(image.PixelData, number_of_frames=1))
        write(image, imagecodecs.jpegsof3_decode(stream), syntaxes[k % len(syntaxes)], target / f"{k:04d}")
    return target


def write(image: pydicom.Dataset, pixels: NDArray[np.uint16], syntax: str, path: Path) -> None:
    """Write a slice in one of SYNTAXES."""
    little = syntax != uid.ExplicitVRBigEndian
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.PixelData = pixels.astype("<u2" if little else ">u2").tobytes()
    image["PixelData"].VR = "OW"
    image["PixelData"].is_undefined_length = False
    if syntax == uid.RLELossless:
        image.compress(syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    encoding = {"implicit_vr": syntax == uid.ImplicitVRLittleEndian, "little_endian": little}
    pydicom.dcmwrite(path, image, enforce_file_format=False, **encoding)


def assert_same(one: PreparedScan, other: PreparedScan) -> None:
    np.testing.assert_array_equal(one.grey, other.grey)
    np.testing.assert_array_equal(one.lungs, other.lungs)
    np.testing.assert_array_equal(one.z_mm, other.z_mm)
    assert (one.lung_litres, one.findings) == (other.lung_litres, other.findings)


def assert_same_answer(one: Answer, other: Answer) -> None:
    for name in ("slices", "percentages", "probabilities"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("syntaxes", [*((each,) for each in SYNTAXES), SYNTAXES], ids=[*SYNTAXES, "all in one"])
def test_other_files_of_the_same_pixels_give_the_same_bits(
    syntaxes: Sequence[str], study: Study, phantom: Path, original: tuple[PreparedScan, Answer], tmp_path: Path
) -> None:
    copy = prepared(read_scan(recoded(list(phantom.iterdir()), tmp_path / "other", syntaxes)), study.ensemble.pixels)
    assert_same(copy, original[0])
    assert_same_answer(study.answer(copy), original[1])


def test_a_real_scan_in_other_files_gives_the_same_bits(
    study: Study, healthy: Volume, sample_root: Path, tmp_path: Path
) -> None:
    """With RLE and big endian; tests/ct/test_real_sample.py has it for compressed ones."""
    files = every_fourth(sample_root / "Normal subjects" / "normal001")
    again, as_read = read_scan(recoded(files, tmp_path / "other", SYNTAXES)), thinned(healthy)
    np.testing.assert_array_equal(again.hu, as_read.hu)
    one, other = (prepared(volume, study.ensemble.pixels) for volume in (again, as_read))
    assert_same(one, other)
    assert_same_answer(study.answer(one), study.answer(other))


def regions(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    """The region head's logits, [networks, n_slices, regions]."""
    found = []
    for member in study.ensemble.members:
        network = study.networks.networks[member].eval()
        with torch.inference_mode():
            batches = study.networks.batches(member, OneScan(scan), "scan", len(scan.grey))
            found.append(torch.cat([network(each["image"], each["position"])[1] for each in batches]).numpy())
    return np.stack(found)


def positions(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    member = study.ensemble.members[0]
    batches = study.networks.batches(member, OneScan(scan), "scan", len(scan.grey))
    return np.concatenate([each["position"].numpy() for each in batches])


def check_turned(study: Study, volume: Volume) -> None:
    """The same images, feet first: each has the location of its mirror image, and other answers for it."""
    pixels = study.ensemble.pixels
    scan, back = prepared(volume, pixels), prepared(replace(volume, hu=volume.hu[::-1].copy()), pixels)
    np.testing.assert_array_equal(back.grey, scan.grey[::-1])  # no crop: the mask does not tell what is seen
    n = len(scan.grey)
    upside_down = replace(scan, grey=scan.grey[::-1].copy(), lungs=scan.lungs[::-1].copy())
    place = positions(study, upside_down)
    np.testing.assert_array_equal(place, positions(study, scan))  # a location is of the place, not of the image
    np.testing.assert_allclose(place[::-1, 1], 1 - place[:, 1], atol=1e-6)
    assert (place[:, 0] == np.float32(n / 200)).all()
    elsewhere = np.abs(np.arange(n) - (n - 1) / 2) > 1
    for told in (study.probabilities, partial(regions, study)):
        moved = np.abs(told(scan) - told(upside_down)[:, ::-1]).max(axis=(0, 2))
        assert (moved[elsewhere] > 0).all()
    assert np.array_equal(told_without_place(study, scan), told_without_place(study, upside_down)[:, ::-1])


def told_without_place(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    """The control: what the networks say where all slices are given the same place."""

    def same_place(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**batch, "position": torch.full_like(batch["position"], 0.5)}

    return study.probabilities(scan, same_place)


def test_a_phantom_feet_first_has_other_positions_and_other_answers(study: Study, phantom: Path) -> None:
    check_turned(study, read_scan(phantom))


def test_a_real_scan_feet_first_has_other_positions_and_other_answers(study: Study, healthy: Volume) -> None:
    check_turned(study, thinned(healthy))


def centre_of(lungs: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Of the larger half of the lungs in their middle slice, columns, rows and slices in mm."""
    index = int(np.median(np.flatnonzero(lungs.any(axis=(1, 2)))))
    rows, columns = np.nonzero(lungs[index, :, : lungs.shape[2] // 2])
    step, row, column = spacing_mm
    return float(np.median(columns)) * column, float(np.median(rows)) * row, index * step


def check_insertion(study: Study, volume: Volume) -> None:
    """A growing lesion changes the pixels where it is, ever more of them, and no answer of the slices beyond it."""
    lungs = segment_lungs(volume.hu, volume.spacing_mm).mask
    lesion = lesion_at(centre_of(lungs, volume.spacing_mm), seed=0)
    pixels = replace(study.ensemble.pixels, crop="none")
    before = prepared(volume, pixels)
    said = study.probabilities(before)
    for steps in steps_of(lesion).values():
        last = before.grey
        for each in steps:
            grown, changed = insert_lesion(volume, lungs, each)
            after = prepared(grown, pixels)
            touched = changed.any(axis=(1, 2))
            assert 0 < touched.sum() < len(touched)
            assert not (changed & ~lungs).any()
            np.testing.assert_array_equal((after.grey != before.grey).any(axis=(1, 2)) & ~touched, False)
            away = np.abs(np.arange(len(touched))[:, None] - np.flatnonzero(touched)).min(axis=1) > 1
            np.testing.assert_array_equal(after.lungs[away], before.lungs[away])
            assert away.any()
            answered = study.probabilities(after)
            np.testing.assert_array_equal(answered[:, away], said[:, away])
            rows, columns = (np.flatnonzero(changed.any(axis=axes)) for axes in ((0, 2), (0, 1)))
            box = np.zeros(before.grey.shape[1:], bool)
            size, scale = len(box), len(box) / volume.hu.shape[1]
            spans = [(int(ends[0] * scale) - 1, int((ends[-1] + 1) * scale) + 2) for ends in (rows, columns)]
            box[slice(*np.clip(spans[0], 0, size)), slice(*np.clip(spans[1], 0, size))] = True
            assert not ((after.grey != before.grey) & ~box).any()
            assert (after.grey >= last).all()  # denser or larger: never darker
            assert after.grey.sum() > last.sum()
            last = after.grey
        assert (answered != said)[:, touched].any()  # or the networks would be blind, and all of this say nothing
    assert np.count_nonzero(changed) > 100


def test_a_lesion_in_a_phantom_is_local_and_grows(study: Study, phantom: Path) -> None:
    check_insertion(study, read_scan(phantom))


def test_a_lesion_in_a_real_scan_is_local_and_grows(study: Study, healthy: Volume) -> None:
    check_insertion(study, thinned(healthy))


def test_a_lesion_stays_within_its_height_and_the_lungs() -> None:
    volume = Volume(np.full((9, 40, 40), -900, np.int16), (6.0, 2.0, 2.0), np.arange(9, 0, -1.0), (), True, "")
    lungs = np.ones(volume.hu.shape, bool)
    lungs[:, :, 20:] = False
    grown, changed = insert_lesion(volume, lungs, lesion_at((38.0, 40.0, 24.0), seed=1))  # 16 mm high and wide
    np.testing.assert_array_equal(np.flatnonzero(changed.any(axis=(1, 2))), [2, 3, 4, 5, 6])
    assert changed[4, 20, 19]
    assert not (changed & ~lungs).any()
    np.testing.assert_array_equal(grown.hu[~changed], -900)
    assert -600 < grown.hu[4, 20, 19] < -200  # -400 HU and a texture of 45


def test_perturbations_by_hand() -> None:
    hu = np.arange(5 * 4 * 4, dtype=np.int16).reshape(5, 4, 4)
    volume = Volume(hu, (2.0, 1.0, 1.0), np.array([8.0, 6, 4, 2, 0]), (), True, "")
    doubled = thick(volume)
    np.testing.assert_array_equal(doubled.hu, [(hu[0] + hu[1]) // 2, (hu[2] + hu[3]) // 2])
    assert doubled.spacing_mm == (4.0, 1.0, 1.0)
    assert doubled.z_mm.tolist() == [7, 3]
    np.testing.assert_array_equal(flipped(flipped(volume)).hu, hu)
    np.testing.assert_array_equal(shifted(volume).hu[:, :2, :2], hu[:, 2:, 2:])
    assert (shifted(volume).hu[:, 2:] < -900).all()
    assert offset(replace(volume, hu=hu - 1024), -10).hu.min() == -1024


def test_changes_are_told_by_hand() -> None:
    before = Answer(np.array([[0, 0, 1, 1, 2]]), np.array([10.0, np.nan]), np.array([0.6, 0.4]), 4.0)
    after = Answer(np.array([[0, 1]]), np.array([30.0, np.nan]), np.array([0.3, 0.7]), 3.0)
    change = Change()
    change.add(before, after, pairs=True)
    change.add(before, before, pairs=False)
    assert change.figures() == {
        "slices kept": 1.0,
        "other class": 1,
        "scans": 2,
        "probability": pytest.approx(0.3),
        "percentages": 10,
        "litres": -0.25,
    }
