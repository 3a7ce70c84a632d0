"""The network of stage 1: deep features, the slice's position, a class head and a region head (section 2.1.2)."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cnr_iemn.constants import LOBES, N_REGIONS
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.backbones import build_backbone

SINUSOIDS = "sinusoids"
FLIP = "flip"
_FIRST_POSITION_COLUMN = {"both": 0, "location": 1, "none": 2, SINUSOIDS: 0}


def position_inputs(slice_index: npt.ArrayLike, n_slices: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return (n_slices / 200, (slice_index + 0.5) / n_slices) as float32 [..., 2] for slices of scans, head first.

    The paper adds the number of slices and the slice's location but not their scale: 200 slices is the longest scan
    that COVID-CT-MD's labels can hold, so both are about 0..1.
    """
    index, n = np.broadcast_arrays(np.asarray(slice_index, dtype=np.float64), np.asarray(n_slices, dtype=np.float64))
    return np.stack([n / 200, (index + 0.5) / n], axis=-1).astype(np.float32)


class PositionNetwork(nn.Module):
    """Number of slices and location as features of their own: sinusoids, then one hidden layer.

    Two numbers beside two thousand deep features, under a linear head, can neither say that the middle of the lungs is
    infected more often nor, at the paper's learning rate, change a prediction.
    """

    features = 32
    frequencies: Tensor
    _n_frequencies = 4

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(self._n_frequencies), persistent=False)
        self.hidden = nn.Linear(2 * 2 * self._n_frequencies, self.features)

    def forward(self, position: Tensor) -> Tensor:
        """Return float [b, features]. ``position``: float [b, 2] of ``position_inputs``."""
        angles = (position[:, :, None] * self.frequencies).flatten(1)  # [b, 2 x frequencies]
        return nn.functional.gelu(self.hidden(torch.cat([angles.sin(), angles.cos()], dim=1)))


class GatedAttention(nn.Module):
    """The score of a slice among those of its scan: w . (tanh(V h) * sigmoid(G h)) (Ilse et al., ICML 2018, 2.4)."""

    _hidden = 128

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.tanh = nn.Linear(inputs, self._hidden)
        self.gate = nn.Linear(inputs, self._hidden)
        self.score = nn.Linear(self._hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # every slice of a scan counts alike at first

    def forward(self, inputs: Tensor) -> Tensor:
        """Return float [b]. ``inputs``: float [b, inputs]."""
        score: Tensor = self.score(self.tanh(inputs).tanh() * self.gate(inputs).sigmoid())
        return score[:, 0]


class SliceNetwork(nn.Module):
    """A backbone with two heads: the class of a slice and the region of the scan that it lies in (Figure 3).

    Args:
        backbone: See ``build_backbone``, as ``library`` and ``weights``.
        n_classes: Number of classes.
        n_regions: Number of regions, 5 in the paper (section 2.1.2).
        position: Inputs that both heads have beside the deep features: ``both`` (number of slices and location, as in
            the paper), ``location``, ``none``, or ``sinusoids`` (both, through a ``PositionNetwork``).
        weights: Start weights of the backbone.
        library: Of the backbone.
        attention: Give slices a score as well, by which ``bags.bag_logits`` weighs them.
        drop_path: See ``build_backbone``; changes training alone.
        image_size: See ``build_backbone``.
        tta: Test-time augmentation: ``none``, or ``flip`` to predict the mean over a slice and its mirror image.

    Raises:
        ConfigurationError: The backbone or position is unknown.
        WeightsError: The weights cannot be loaded.
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
        attention: bool = False,
        drop_path: float = 0.0,
        image_size: int | None = None,
        tta: str = "none",
    ) -> None:
        super().__init__()
        if position not in _FIRST_POSITION_COLUMN:
            raise ConfigurationError(
                f"model.position={position} is not known: choose one of {', '.join(_FIRST_POSITION_COLUMN)}."
            )
        encoder = build_backbone(backbone, weights=weights, library=library, drop_path=drop_path, image_size=image_size)
        self.backbone = backbone
        self.tta = tta
        self.trunk = encoder.trunk
        self.min_size, self.fixed_size = encoder.min_size, encoder.fixed_size
        self.first_position_column = _FIRST_POSITION_COLUMN[position]
        position_network = PositionNetwork() if position == SINUSOIDS else None
        n_position = 2 - self.first_position_column if position_network is None else position_network.features
        inputs = encoder.features + n_position
        self.class_head = nn.Linear(inputs, n_classes)
        self.region_head = nn.Linear(inputs, n_regions)
        self.position_network = position_network
        self.attention = GatedAttention(inputs) if attention else None
        self.lobe_head: nn.Linear | None = None

    def forward(self, images: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of both tasks.

        Args:
            images: uint8 0..255 or float 0..1, [b, 3, h, w] (of the paper's four without ImageNet
                mean and deviation, as in the authors' code).
            position: float [b, 2] of ``position_inputs``.

        Returns:
            Class logits, float [b, n_classes], and region logits, float [b, n_regions].

        Raises:
            ConfigurationError: The images are too small.
        """
        return self.heads(self.deep_features(images), position)

    def deep_features(self, images: Tensor) -> Tensor:
        """Return the trunk's pooled features, float [b, features]. ``images``, errors: as of ``forward``."""
        self.check_size(min(images.shape[-2:]))
        if images.dtype == torch.uint8:
            images = images.to(self.class_head.weight.dtype) / 255
        features: Tensor = self.trunk(images)
        return features

    def views(self, images: Tensor) -> list[Tensor]:
        """Return the images over which a prediction is the mean, as they are first; each as ``forward`` takes them."""
        return [images, images.flip(-1)] if self.tta == FLIP else [images]

    def heads(self, deep: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return class and region logits, as ``forward`` does, from the trunk's deep features [b, features]."""
        with torch.autocast(deep.device.type, enabled=False):
            inputs = self._head_inputs(deep, position)
            return self.class_head(inputs), self.region_head(inputs)

    def add_lobe_head(self) -> None:
        """Add a head of the diseased lobes of a slice, for training alone; all else starts as it would without."""
        self.lobe_head = nn.Linear(self.class_head.in_features, len(LOBES))

    def without_lobe_head(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a training without those of the lobe head, unless this network has one."""
        if self.lobe_head is not None:
            return state
        return {name: value for name, value in state.items() if not name.startswith("lobe_head.")}

    def lobe_logits(self, deep: Tensor, position: Tensor) -> Tensor:
        """Return logits of the diseased lobes, float [b, lobes], from the deep features."""
        assert self.lobe_head is not None
        with torch.autocast(deep.device.type, enabled=False):
            logits: Tensor = self.lobe_head(self._head_inputs(deep, position))
            return logits

    def scores(self, deep: Tensor, position: Tensor) -> Tensor | None:
        """Return the slices' scores from the deep features, float [b]; None for a network without attention."""
        if self.attention is None:
            return None
        with torch.autocast(deep.device.type, enabled=False):
            score: Tensor = self.attention(self._head_inputs(deep, position))
            return score

    def _head_inputs(self, deep: Tensor, position: Tensor) -> Tensor:
        """Return what the heads take, float [b, inputs], in their own precision.

        Outside autocast: in bfloat16 neighbouring slices of a long scan would share one location.
        """
        dtype = self.class_head.weight.dtype
        return torch.cat([deep.to(dtype), self._position_features(position.to(dtype))], dim=1)

    def _position_features(self, position: Tensor) -> Tensor:
        if self.position_network is None:
            return position[:, self.first_position_column :]
        features: Tensor = self.position_network(position)
        return features

    def check_size(self, side: int) -> None:
        """Raise ConfigurationError where the backbone does not accept images of this side, in pixels."""
        size = (
            self.fixed_size if self.fixed_size not in (None, side) else self.min_size if side < self.min_size else None
        )
        if size is not None:
            how = "" if self.fixed_size else " or more"
            raise ConfigurationError(
                f"Images with a side of {side} pixels do not fit {self.backbone}: give model.image_size={size}{how}."
            )
