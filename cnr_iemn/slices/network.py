"""The network of stage 1: deep features, the slice's position, a class head and a region head (section 2.1.2)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.registry import N_REGIONS
from cnr_iemn.slices.backbones import build_backbone

_FIRST_POSITION_COLUMN = {"both": 0, "location": 1, "none": 2}


def position_inputs(slice_index: npt.ArrayLike, n_slices: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return (n_slices / 200, (slice_index + 0.5) / n_slices) as float32 [..., 2] for slices of scans, head first.

    The paper adds the number of slices and the slice's location but not their scale: 200 slices is the longest scan
    that COVID-CT-MD's labels can hold, so both are about 0..1.
    """
    index, n = np.broadcast_arrays(np.asarray(slice_index, dtype=np.float64), np.asarray(n_slices, dtype=np.float64))
    return np.stack([n / 200, (index + 0.5) / n], axis=-1).astype(np.float32)


class SliceNetwork(nn.Module):
    """Two answers for a slice: its class and the region of the scan it lies in (Figure 3).

    ``backbone``, ``library``, ``weights``: see ``build_backbone``. ``position``: what is joined to the deep features
    before both heads: ``both`` (number of slices and location, as in the paper), ``location`` or ``none``.

    Raises ConfigurationError for an unknown backbone or position, WeightsError where the weights cannot be had.
    """

    def __init__(
        self,
        backbone: str,
        *,
        n_classes: int = 3,
        n_regions: int = N_REGIONS,
        position: str = "both",
        weights: str | Path = "none",
        library: str = "torchvision",
    ) -> None:
        super().__init__()
        if position not in _FIRST_POSITION_COLUMN:
            raise ConfigurationError(
                f"model.position={position} is not known: choose one of {', '.join(_FIRST_POSITION_COLUMN)}."
            )
        built = build_backbone(backbone, weights=weights, library=library)
        self.backbone = backbone
        self.trunk = built.trunk
        self.smallest, self.only = built.smallest, built.only
        self.first_position_column = _FIRST_POSITION_COLUMN[position]
        inputs = built.features + 2 - self.first_position_column
        self.class_head = nn.Linear(inputs, n_classes)
        self.region_head = nn.Linear(inputs, n_regions)

    def forward(self, images: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits [b, n_classes] and region logits [b, n_regions].

        ``images``: uint8 0..255 or float 0..1, [b, 3, h, w] (no ImageNet mean and deviation, as in the authors' code).
        ``position``: float [b, 2] of ``position_inputs``. Raises ConfigurationError where the images are too small.
        """
        self.check_size(min(images.shape[-2:]))
        if images.dtype == torch.uint8:
            images = images.to(self.class_head.weight.dtype) / 255
        return self.heads(self.trunk(images), position)

    def heads(self, deep: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return class and region logits, as ``forward`` does, from the trunk's deep features [b, features]."""
        dtype = self.class_head.weight.dtype
        # outside autocast: in bfloat16 neighbouring slices of a long scan would share one location
        with torch.autocast(deep.device.type, enabled=False):
            joined = torch.cat([deep.to(dtype), position[:, self.first_position_column :].to(dtype)], dim=1)
            return self.class_head(joined), self.region_head(joined)

    def check_size(self, side: int) -> None:
        """Raise ConfigurationError where images of this side in pixels cannot be taken."""
        wanted = self.only if self.only not in (None, side) else self.smallest if side < self.smallest else None
        if wanted is not None:
            how = "" if self.only else " or more"
            raise ConfigurationError(
                f"Images with a side of {side} pixels do not fit {self.backbone}: give model.image_size={wanted}{how}."
            )
