"""Invariances of a prediction: the same pixels in other files, the reversed order of slices, an inserted lesion.

On phantoms with the tests' small study; on the real sample, if there is one, with the same networks.
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

from benchmarks.insert_lesion import insert_lesion
from benchmarks.insertions import ground_glass_lesion, growth_steps
from benchmarks.robustness import Change, ScanPrediction, Study
from benchmarks.single_lesions import prepare
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.ct.volume import Volume
from cnr_iemn.inference.networks import InMemoryScan

pytestmark = pytest.mark.slow

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
def original(study: Study, phantom: Path) -> tuple[PreparedScan, ScanPrediction]:
    scan = prepare(read_scan(phantom), study.ensemble.pixels)
    return scan, study.predict(scan)


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


def assert_same(first: PreparedScan, second: PreparedScan) -> None:
    np.testing.assert_array_equal(first.grey, second.grey)
    np.testing.assert_array_equal(first.lungs, second.lungs)
    np.testing.assert_array_equal(first.z_mm, second.z_mm)
    assert (first.lung_litres, first.findings) == (second.lung_litres, second.findings)


def assert_same_prediction(first: ScanPrediction, second: ScanPrediction) -> None:
    for name in ("slices", "percentages", "probabilities"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("syntaxes", [*((entry,) for entry in SYNTAXES), SYNTAXES], ids=[*SYNTAXES, "all in one"])
def test_other_files_of_the_same_pixels_give_the_same_bits(
    syntaxes: Sequence[str], study: Study, phantom: Path, original: tuple[PreparedScan, ScanPrediction], tmp_path: Path
) -> None:
    copy = prepare(read_scan(recoded(list(phantom.iterdir()), tmp_path / "other", syntaxes)), study.ensemble.pixels)
    assert_same(copy, original[0])
    assert_same_prediction(study.predict(copy), original[1])


def test_a_real_scan_in_other_files_gives_the_same_bits(
    study: Study, healthy: Volume, sample_root: Path, tmp_path: Path
) -> None:
    """With RLE and big endian; tests/ct/test_real_sample.py has it for compressed ones."""
    files = every_fourth(sample_root / "Normal subjects" / "normal001")
    again, as_read = read_scan(recoded(files, tmp_path / "other", SYNTAXES)), thinned(healthy)
    np.testing.assert_array_equal(again.hu, as_read.hu)
    first, second = (prepare(volume, study.ensemble.pixels) for volume in (again, as_read))
    assert_same(first, second)
    assert_same_prediction(study.predict(first), study.predict(second))


def regions(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    """The region head's logits, [networks, n_slices, regions]."""
    outputs = []
    for member in study.ensemble.members:
        network = study.networks.networks[member].eval()
        with torch.inference_mode():
            batches = study.networks.batches(member, InMemoryScan(scan.grey, scan.lungs), "scan", len(scan.grey))
            outputs.append(torch.cat([network(entry["image"], entry["position"])[1] for entry in batches]).numpy())
    return np.stack(outputs)


def positions(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    member = study.ensemble.members[0]
    batches = study.networks.batches(member, InMemoryScan(scan.grey, scan.lungs), "scan", len(scan.grey))
    return np.concatenate([entry["position"].numpy() for entry in batches])


def check_turned(study: Study, volume: Volume) -> None:
    """The same images, feet first: each has the location of its mirror image, and other answers for it."""
    pixels = study.ensemble.pixels
    scan, back = prepare(volume, pixels), prepare(replace(volume, hu=volume.hu[::-1].copy()), pixels)
    np.testing.assert_array_equal(back.grey, scan.grey[::-1])  # no crop: the mask does not tell what is seen
    n = len(scan.grey)
    upside_down = replace(scan, grey=scan.grey[::-1].copy(), lungs=scan.lungs[::-1].copy())
    place = positions(study, upside_down)
    np.testing.assert_array_equal(place, positions(study, scan))  # a location is of the place, not of the image
    np.testing.assert_allclose(place[::-1, 1], 1 - place[:, 1], atol=1e-6)
    assert (place[:, 0] == np.float32(n / 200)).all()
    still = np.abs(predict_without_position(study, scan) - predict_without_position(study, upside_down)[:, ::-1]).max()
    assert still < 1e-5  # a processor may round otherwise where a slice lies in a batch of another size
    elsewhere = np.abs(np.arange(n) - (n - 1) / 2) > 1
    for function in (study.probabilities, partial(regions, study)):
        moved = np.abs(function(scan) - function(upside_down)[:, ::-1]).max(axis=(0, 2))
        assert (moved[elsewhere] > still).all()


def predict_without_position(study: Study, scan: PreparedScan) -> NDArray[np.float32]:
    """The control: what the networks say where all slices are given the same place."""

    def same_place(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**batch, "position": torch.full_like(batch["position"], 0.5)}

    return study.probabilities(scan, same_place)


def test_a_phantom_feet_first_has_other_positions_and_other_predictions(study: Study, phantom: Path) -> None:
    check_turned(study, read_scan(phantom))


def test_a_real_scan_feet_first_has_other_positions_and_other_predictions(study: Study, healthy: Volume) -> None:
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
    lesion = ground_glass_lesion(centre_of(lungs, volume.spacing_mm), seed=0)
    pixels = replace(study.ensemble.pixels, crop="none")
    before = prepare(volume, pixels)
    original_probabilities = study.probabilities(before)
    for steps in growth_steps(lesion).values():
        last = before.grey
        for entry in steps:
            grown, changed = insert_lesion(volume, lungs, entry)
            after = prepare(grown, pixels)
            touched = changed.any(axis=(1, 2))
            assert 0 < touched.sum() < len(touched)
            assert not (changed & ~lungs).any()
            np.testing.assert_array_equal((after.grey != before.grey).any(axis=(1, 2)) & ~touched, False)
            distant = np.abs(np.arange(len(touched))[:, None] - np.flatnonzero(touched)).min(axis=1) > 1
            np.testing.assert_array_equal(after.lungs[distant], before.lungs[distant])
            assert distant.any()
            answered = study.probabilities(after)
            np.testing.assert_array_equal(answered[:, distant], original_probabilities[:, distant])
            rows, columns = (np.flatnonzero(changed.any(axis=axes)) for axes in ((0, 2), (0, 1)))
            box = np.zeros(before.grey.shape[1:], bool)
            size, scale = len(box), len(box) / volume.hu.shape[1]
            spans = [(int(edges[0] * scale) - 1, int((edges[-1] + 1) * scale) + 2) for edges in (rows, columns)]
            box[slice(*np.clip(spans[0], 0, size)), slice(*np.clip(spans[1], 0, size))] = True
            assert not ((after.grey != before.grey) & ~box).any()
            assert (after.grey >= last).all()  # denser or larger: never darker
            assert after.grey.sum() > last.sum()
            last = after.grey
        assert (answered != original_probabilities)[:, touched].any()  # otherwise nothing is tested
    assert np.count_nonzero(changed) > 100


def test_a_lesion_in_a_phantom_is_local_and_grows(study: Study, phantom: Path) -> None:
    check_insertion(study, read_scan(phantom))


def test_a_lesion_in_a_real_scan_is_local_and_grows(study: Study, healthy: Volume) -> None:
    check_insertion(study, thinned(healthy))


def test_a_lesion_stays_within_its_height_and_the_lungs() -> None:
    volume = Volume(np.full((9, 40, 40), -900, np.int16), (6.0, 2.0, 2.0), np.arange(9, 0, -1.0), (), True, "")
    lungs = np.ones(volume.hu.shape, bool)
    lungs[:, :, 20:] = False
    grown, changed = insert_lesion(
        volume, lungs, ground_glass_lesion((38.0, 40.0, 24.0), seed=1)
    )  # 16 mm high and wide
    np.testing.assert_array_equal(np.flatnonzero(changed.any(axis=(1, 2))), [2, 3, 4, 5, 6])
    assert changed[4, 20, 19]
    assert not (changed & ~lungs).any()
    np.testing.assert_array_equal(grown.hu[~changed], -900)
    assert -600 < grown.hu[4, 20, 19] < -200  # -400 HU and a texture of 45


def test_changes_by_hand() -> None:
    before = ScanPrediction(np.array([[0, 0, 1, 1, 2]]), np.array([10.0, np.nan]), np.array([0.6, 0.4]), 4.0)
    after = ScanPrediction(np.array([[0, 1]]), np.array([30.0, np.nan]), np.array([0.3, 0.7]), 3.0)
    change = Change()
    change.add(before, after, pairs=True)
    change.add(before, before, pairs=False)
    assert change.figures() == {
        "slices kept": 1.0,
        "other class": 1,
        "scans": 2,
        "refused": 0,
        "probability": pytest.approx(0.3),
        "percentages": 10,
        "litres": -0.25,
    }
