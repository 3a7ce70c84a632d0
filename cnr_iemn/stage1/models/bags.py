"""A scan as a bag of slices: from what a network says of the slices to the class of the scan."""

import torch
from torch import Tensor


def bag_logits(class_logits: Tensor, scores: Tensor) -> Tensor:
    """Return the class logits of a scan: the mean of its slices', weighted by the softmax of their scores.

    The class head is linear, so that this is attention pooling of the deep features (Ilse, Tomczak, Welling, ICML 2018)
    with the same head behind it: one head tells the class of a slice and of a scan.

    Args:
        class_logits: Of its slices, float [n, classes].
        scores: Of its slices, float [n].

    Returns:
        Float32 [classes].
    """
    return torch.softmax(scores.float(), dim=0) @ class_logits.float()
