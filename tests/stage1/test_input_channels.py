"""The channels of the networks' input: the paper's to the bit, neighbouring slices, the mediastinal window."""

import copy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnr_iemn.config.group_rules import check_channels, check_model
from cnr_iemn.config.schema.settings import AugmentationSettings, IngestSettings, ModelSettings
from cnr_iemn.constants import PAPER_CHANNELS
from cnr_iemn.ct.window import three_channels, window_to_uint8
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.data.augmentation import apply_warp, draw_warp
from cnr_iemn.stage1.data.balancing import balance, copy_rng
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable
from cnr_iemn.stage1.data.input_channels import InputChannels, mediastinal_table
from cnr_iemn.stage1.training.run_record import with_later_settings

SIZE, N_SLICES = 48, 5
ALL = ("previous", "next", "mediastinum")
AUGMENTATION = AugmentationSettings(jitter_probability=1.0)


class Scan:
    """Slices of noise and a mask."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self._grey = rng.integers(0, 256, (N_SLICES, SIZE, SIZE), dtype=np.uint8)
        self._lungs = (rng.random((N_SLICES, SIZE, SIZE)) < 0.5).astype(np.uint8)

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        return self._grey

    def lungs(self, scan_id: str) -> NDArray[np.uint8]:
        return self._lungs


def images(*names: str, side: int = SIZE, augmented: bool = False, window: tuple[float, float] = (-1000, 400)) -> Any:
    """Return the images of all slices, uint8 [n_slices, 3, side, side]."""
    table = SliceTable.of({"a": N_SLICES}, {"a": np.zeros(N_SLICES, np.int64)})
    items = balance(table.label, classes=("any",), copies=[0], augment="all_classes") if augmented else None
    channels = InputChannels(names or PAPER_CHANNELS, window)
    options: dict[str, Any] = {"image_size": side, "channels": channels, "items": items, "augmentation": AUGMENTATION}
    data = SliceDataset(Scan(), table, **options)
    return np.stack([data[k]["image"].numpy() for k in range(N_SLICES)])


@pytest.mark.parametrize("side", [SIZE, 32])
@pytest.mark.parametrize("augmented", [False, True])
def test_the_papers_input_is_what_it_was(augmented: bool, side: int) -> None:
    scan, result = Scan(), images(side=side, augmented=augmented)
    for k, image in enumerate(result):
        warp = draw_warp(copy_rng(0, "a", k, 0, None), AUGMENTATION, input_size=SIZE, image_size=side)
        grey, lungs = scan.grey("a")[k], scan.lungs("a")[k]
        if augmented:
            np.testing.assert_array_equal(image, three_channels(*apply_warp(grey, lungs, warp, image_size=side)))
        elif side == SIZE:
            np.testing.assert_array_equal(image, three_channels(grey, lungs))


def test_neighbours_are_those_of_the_scan_and_its_ends_their_own() -> None:
    grey, result = Scan().grey("a"), images("previous", "grey", "next")
    for k in range(N_SLICES):
        places = [max(k - 1, 0), k, min(k + 1, N_SLICES - 1)]
        np.testing.assert_array_equal(result[k], grey[places])


def test_channels_of_a_slice_are_warped_alike() -> None:
    """A neighbour that is the same slice gives the same channel, whatever the augmentation."""
    warped = images("previous", "grey", "next", side=32, augmented=True)
    np.testing.assert_array_equal(warped[0, 0], warped[0, 1])
    np.testing.assert_array_equal(warped[-1, 2], warped[-1, 1])
    assert (warped[1, 0] != warped[1, 1]).any()
    same = images("grey", "grey", "grey", side=32, augmented=True)
    np.testing.assert_array_equal(same, np.repeat(images(side=32, augmented=True)[:, :1], 3, axis=1))


@pytest.mark.parametrize("window", [(-1000.0, 400.0), (-1350.0, 300.0)])
def test_the_mediastinal_window_of_the_store_is_that_of_the_scan(window: tuple[float, float]) -> None:
    """But for the store's steps of 5 or 6 HU, which are 4 of 255 in a window of 400 HU."""
    low, high = window
    hu = np.arange(-1200, 600, dtype=np.int16)
    stored = window_to_uint8(hu, low=low, high=high)
    expected = window_to_uint8(hu, low=-160, high=240).astype(int)
    step = (high - low) / 255 / 400 * 255
    assert np.abs(mediastinal_table(window)[stored].astype(int) - expected).max() <= step / 2 + 1
    result = images("mediastinum", "grey", "mask", window=window)
    np.testing.assert_array_equal(result[:, 0], mediastinal_table(window)[Scan().grey("a")])


@pytest.mark.parametrize("names", [["grey", "mask"], ["grey", "mask", "product", "next"], ["grey", "mask", "bone"]])
def test_three_known_channels_are_asked_for(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"are not three of grey, mask, product, previous, next, mediastinum"):
        check_model(ModelSettings(name="resnext50", image_size=224, channels=names))


def test_a_window_that_cuts_the_mediastinum_off_is_refused() -> None:
    model = ModelSettings(name="resnext50", image_size=224, channels=["grey", "mask", "mediastinum"])
    check_channels(model, IngestSettings())
    with pytest.raises(ConfigurationError, match=r"ingest\.window=\[-1150, 150\] cuts some of them off"):
        check_channels(model, IngestSettings(window=[-1150, 150]))
    check_channels(replace(model, channels=list(PAPER_CHANNELS)), IngestSettings(window=[-1150, 150]))


def test_a_run_from_before_had_the_papers_channels() -> None:
    now = {"model": asdict(ModelSettings(name="resnext50", image_size=224))}
    before = copy.deepcopy(now)
    del before["model"]["channels"]
    assert with_later_settings(before) == now
