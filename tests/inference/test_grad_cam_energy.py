"""Grad-CAM's energy in a lesion's box: closed forms, a network trained here, and a demo study if there is one."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.gradcam import (
    MEAN,
    RANDOM,
    TRAINED,
    TWIN,
    bounding_box,
    energy_ratio,
    measure,
    median_interval,
    phantom_size,
)
from benchmarks.single_lesions import largest_lesion, render_subject
from cnr_iemn.ct.preprocess import lung_square
from cnr_iemn.ct.window import three_channels, window_to_uint8
from cnr_iemn.inference.explanation import grad_cam
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.phantom.lesions import Lesion
from cnr_iemn.phantom.protocol import noise_slice
from cnr_iemn.phantom.renderer import SliceRenderer
from cnr_iemn.phantom.scan_spec import ScanSpec, make_scan_spec
from cnr_iemn.stage1.models.network import SliceNetwork, position_inputs
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import read_ensemble

pytestmark = pytest.mark.slow

ROWS, SIDE, LEARNT, JUDGED, STEPS, BATCH, RATE = 64, 96, 28, 12, 12, 16, 3e-3
NATIVE_BF16 = choose_hardware(0).precision == "bf16"  # elsewhere it is emulated: training takes minutes


def plane() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A lesion of 4 x 4 at the edge of a lung of 10 x 12 in an image of 20 x 20; half of its box is lung."""
    lesion, lungs = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    lungs[5:15, 4:16] = True
    lesion[3:7, 6:10] = True
    return lesion, lungs


def test_an_uninformative_map_has_a_ratio_of_one() -> None:
    lesion, lungs = plane()
    uniform = np.full((20, 20), 0.3)
    assert bounding_box(lesion) == (slice(3, 7), slice(6, 10))
    assert energy_ratio(uniform, lesion, lungs) == pytest.approx(1)
    share = (16 / 400) / (8 / 120)  # of the image in the box, of the lungs in the box
    assert energy_ratio(uniform, lesion, lungs, whole=True) == pytest.approx(share)


def test_the_ratio_is_one_over_the_box_s_share_where_all_energy_is_in_the_box() -> None:
    lesion, lungs = plane()
    energy = np.zeros((20, 20))
    energy[5, 8], energy[4, 8] = 2, 7  # the second is in the box but not in the lungs
    assert energy_ratio(energy, lesion, lungs) == pytest.approx(120 / 8)
    energy[10, 10] = 6
    assert energy_ratio(energy, lesion, lungs) == pytest.approx(120 / 8 / 4)
    assert energy_ratio(energy, lesion, lungs, whole=True) == pytest.approx(120 / 8 * 9 / 15)
    assert energy_ratio(np.zeros((20, 20)), lesion, lungs) == 0


def test_the_interval_draws_scans_and_not_slices() -> None:
    ratios = np.repeat([1.0, 2.0, 3.0], 50)
    assert median_interval(ratios, np.repeat([0, 1, 2], 50)) == (2, 1, 3)
    low, high = median_interval(ratios, np.arange(150))[1:]
    assert (low, high) == (2, 2)  # were they independent, the median would be sure


@dataclass(frozen=True)
class Pair:
    """A slice with a lesion in front, and the same without: uint8 [2, 3, side, side]."""

    spec: ScanSpec
    lesion: Lesion
    images: torch.Tensor
    reach: NDArray[np.bool_]
    lungs: NDArray[np.bool_]


def painted(spec: ScanSpec, lesions: tuple[Lesion, ...], u: float) -> tuple[torch.Tensor, NDArray, NDArray]:
    """The slice at this depth as the networks get it, what lesions reach of it, and the lungs."""
    image, lungs, reach, _ = SliceRenderer(spec, ROWS, lesions).render(u)
    image = image + noise_slice(np.random.default_rng(spec.seed), ROWS, spec.protocol)
    grey = window_to_uint8(np.clip(np.rint(image), -1024, 3071).astype(np.int16)[None])[0]
    view = lung_square(lungs[None])
    resize = partial(cv2.resize, dsize=(SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    content, mask, touched = (resize(sample[view].astype(np.uint8)) for sample in (grey, lungs, reach))
    return torch.from_numpy(three_channels(content, mask)), touched > 0, mask > 0


def pair(seed: int) -> Pair:
    spec = make_scan_spec(seed, "COVID-19", n_slices=(22, 26))
    lesion = largest_lesion(spec.lesions)
    with_it, reach, lungs = painted(spec, (lesion,), lesion.centre[2])
    without = painted(spec, (), lesion.centre[2])[0]
    return Pair(spec, lesion, torch.stack([with_it, without]), reach & lungs, lungs)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [pair(500 + k) for k in range(LEARNT + JUDGED)]


def position(n: int) -> torch.Tensor:
    return torch.from_numpy(position_inputs(np.full(n, 10), 24))


def fresh() -> SliceNetwork:
    torch.manual_seed(0)
    return SliceNetwork("resnext50", n_classes=2, position="none").to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def trained(pairs: list[Pair]) -> SliceNetwork:
    """A backbone that has seen 192 slices, half of them with a lesion: class 1."""
    network = fresh().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        selection = torch.randperm(LEARNT, generator=draw)[: BATCH // 2].tolist()
        images = torch.cat([pairs[k].images for k in selection]).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=NATIVE_BF16):
            logits = network(images, position(BATCH))[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor([1, 0] * (BATCH // 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def ratios(network: SliceNetwork, pairs: list[Pair], *, which: int) -> NDArray[np.float64]:
    """Of the slices with (0) or without (1) the lesion; the map has 12 x 12 places."""
    images = torch.stack([sample.images[which] for sample in pairs])
    maps = grad_cam(network, images, position(len(pairs)), target=1, level=2)
    return np.array(
        [energy_ratio(image, sample.reach, sample.lungs) for image, sample in zip(maps, pairs, strict=True)]
    )


def test_a_trained_network_looks_at_the_lesion_and_a_random_one_does_not(
    trained: SliceNetwork, pairs: list[Pair]
) -> None:
    judged = pairs[LEARNT:]
    with_it, without, untrained = (
        ratios(network, judged, which=which) for network, which in ((trained, 0), (trained, 1), (fresh(), 0))
    )
    interval, difference, control = (
        median_interval(values, np.arange(JUDGED)) for values in (with_it, with_it - without, untrained)
    )
    print(interval, difference, control)
    assert interval[1] > 1
    assert difference[1] > 0  # of the same boxes with nothing in them
    assert 0.8 < control[0] < 1.25  # random weights know nothing of lesions (Adebayo et al. 2018)
    assert control[2] < interval[1]


def infected(network: SliceNetwork, images: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        values: NDArray[np.float32] = torch.softmax(network(images, position(len(images)))[0], dim=1)[:, 1].numpy()
    return values


DENSER: list[Callable[[Lesion], Lesion]] = [partial(replace, hu=hu) for hu in (-700, -550, -400, -250, -100)]


def larger(share: float, lesion: Lesion) -> Lesion:
    depth, height, width = lesion.radii
    return replace(lesion, radii=(share * depth, share * height, share * width))


LARGER: list[Callable[[Lesion], Lesion]] = [partial(larger, share) for share in (0.4, 0.6, 0.8, 1.0, 1.2)]


@pytest.mark.parametrize("changes", [DENSER, LARGER], ids=["denser", "larger"])
def test_the_probability_of_infection_rises_with_the_lesion(
    changes: list[Callable[[Lesion], Lesion]], trained: SliceNetwork, pairs: list[Pair]
) -> None:
    """Of slices that were not learnt from."""
    rising = []
    for sample in pairs[LEARNT : LEARNT + 4]:
        plain = replace(sample.lesion, kind="ground_glass")
        grown = [painted(sample.spec, (change(plain),), plain.centre[2])[0] for change in changes]
        rising.append(infected(trained, torch.stack([sample.images[1], *grown])))
    mean = np.mean(rising, axis=0)
    print(mean)
    assert (np.diff(mean) > 0).all()
    assert all(row[-1] > row[0] for row in rising)


def test_a_demo_study_looks_at_the_lesion() -> None:
    demo = os.environ.get("CNR_IEMN_DEMO_STUDY")
    if not demo:
        pytest.skip("CNR_IEMN_DEMO_STUDY is not set: it names the folder of a trained demo study (runs/demo)")
    study = Path(demo)
    ensemble = read_ensemble(study.parent, study.name, "all")
    networks = EnsembleNetworks(study, ensemble, choose_hardware(0), batch_size=64)
    rows, n_slices = phantom_size(study, ensemble)
    subjects = [
        render_subject(30_000 + k, label, ensemble.pixels, rows=rows, n_slices=n_slices)
        for k in range(8)
        for label in ensemble.classes[1:]
    ]
    by_kind = measure(networks, subjects)[MEAN]
    finest = 2
    low = by_kind[TRAINED].median(finest)[1]
    assert low > 1
    assert by_kind[TRAINED].median_difference(by_kind[TWIN], finest)[1] > 0
    assert by_kind[RANDOM].median(finest)[2] < low
