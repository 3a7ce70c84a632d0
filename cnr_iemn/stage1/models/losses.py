"""The loss of stage 1 (section 3.1.1)."""

import torch
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 1.5) -> Tensor:
    """Return the focal loss (Lin et al., ICCV 2017), unweighted as in the paper (section 3.1.1).

    Args:
        logits: float [b, c]; the loss is computed in float32 in any case.
        targets: Class indices, int64 [b].
        gamma: 1.5 in the paper; 0 is cross-entropy.

    Returns:
        The mean over the batch of (1 - p)^gamma * -log p, with p the probability of the target class; float32 [].
    """
    log_p = torch.log_softmax(logits, dim=1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]
    # kept above 0, where a power below 1 has no finite gradient
    rest = (1 - log_p.exp()).clamp_min(torch.finfo(torch.float32).tiny)
    return (rest**gamma * -log_p).mean()
