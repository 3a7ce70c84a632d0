"""Soft targets of a training batch: label smoothing, and mixup and CutMix of slices with all that belongs to them."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class BatchMixing:
    """Blends each slice of a batch with the one before it, or pastes a rectangle of that one into it.

    Zhang et al., mixup, 2018 (arXiv:1710.09412); Yun et al., CutMix, 2019 (arXiv:1905.04899). With both, each batch has
    one of them. Random numbers are torch's, which are seeded in each epoch.

    Args:
        mixup: Alpha of the Beta distribution of the shares; 0 for none.
        cutmix: The same of the area.
        label_smoothing: Share of each target that is spread over all classes; 0 for none.
    """

    def __init__(self, *, mixup: float = 0.0, cutmix: float = 0.0, label_smoothing: float = 0.0) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self._transforms = [kind(alpha=alpha) for kind, alpha in kinds if alpha > 0]
        self.label_smoothing = label_smoothing

    def __bool__(self) -> bool:
        """Tell whether targets are soft at all."""
        return bool(self._transforms) or self.label_smoothing > 0

    def __call__(self, images: Tensor, *shares: Tensor) -> tuple[Tensor, ...]:
        """Mix a batch.

        Args:
            images: uint8 0..255, [b, 3, s, s].
            shares: Values of each slice that are mixed as its pixels are: shares of the classes, position; each float32
                [b, n].

        Returns:
            Images, where they are mixed as float32 0..1, and the mixed values.
        """
        if not self._transforms:
            return images, *shares
        transform = self._transforms[int(torch.randint(len(self._transforms), ()))]
        images, targets = transform(images.float() / 255, torch.cat(shares, dim=1))  # as labels, which it mixes alike
        return images, *targets.split([values.shape[1] for values in shares], dim=1)
