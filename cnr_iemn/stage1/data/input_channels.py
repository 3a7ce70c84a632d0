"""What the three channels of a network's input show of a slice and its neighbours."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.constants import INPUT_WINDOW, MEDIASTINAL_WINDOW, PAPER_CHANNELS
from cnr_iemn.ct.window import three_channels
from cnr_iemn.stage1.data.augmentation import Warp, apply_warp, warp_grey

Image = NDArray[np.uint8]
NEIGHBOURS = {"previous": -1, "next": 1}
"""By how many slices a neighbour is further from the head; the first and the last slice are their own neighbours."""


@dataclass(frozen=True)
class InputChannels:
    """The channels of a network's input, each one of ``constants.INPUT_CHANNELS``.

    Attributes:
        names: In their order; the paper's are grey, mask and their product (section 2.1.1).
        window: HU at grey 0 and 255 of the slices.
    """

    names: tuple[str, ...] = PAPER_CHANNELS
    window: tuple[float, float] = INPUT_WINDOW

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the slices lie whose grey is needed beside the slice's own, counted from it."""
        return tuple(offset for name, offset in NEIGHBOURS.items() if name in self.names)

    def __call__(self, grey: Image, lungs: Image, neighbours: dict[int, Image], warp: Warp, side: int) -> Image:
        """Return the channels of a slice, each warped alike, uint8 [3, side, side].

        Args:
            grey: The slice, uint8 [h, h].
            lungs: Its lung mask, 0 or 1, uint8 [h, h].
            neighbours: Grey of the slices at ``offsets``.
            warp: From a side of h to ``side`` pixels.
            side: Of the result, pixels.
        """
        warped, mask = apply_warp(grey, lungs, warp, image_size=side)
        paper = dict(zip(PAPER_CHANNELS, three_channels(warped, mask), strict=True))
        extra_images = {name: neighbours[offset] for name, offset in NEIGHBOURS.items() if name in self.names}
        if "mediastinum" in self.names:
            extra_images["mediastinum"] = cv2.LUT(grey, mediastinal_table(self.window))
        channels = paper | {name: warp_grey(image, warp, image_size=side) for name, image in extra_images.items()}
        return np.stack([channels[name] for name in self.names])


def mediastinal_table(window: tuple[float, float]) -> Image:
    """Return the grey in the mediastinal window of each grey of another window, uint8 [256].

    The window must hold the mediastinal one: grey 0 and 255 stand for all that lies beyond it.
    """
    low, high = MEDIASTINAL_WINDOW
    hu = np.linspace(*window, 256)
    table: Image = np.rint((np.clip(hu, low, high) - low) / (high - low) * 255).astype(np.uint8)
    return table
