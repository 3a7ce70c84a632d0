"""The loss of stage 1 (section 3.1.1)."""

import torch
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 1.5) -> Tensor:
    """Return the mean over the batch of (1 - p)^gamma * -log p, with p the probability of the target class.

    ``logits``: float [b, c]. ``targets``: int64 [b]. Unweighted, with gamma 1.5, as in the paper (Lin et al., ICCV
    2017); gamma 0 is cross-entropy. Computed in float32 whatever the precision of the logits.
    """
    log_p = torch.log_softmax(logits, dim=1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]
    # kept above 0, where a power below 1 has no finite gradient
    rest = (1 - log_p.exp()).clamp_min(torch.finfo(torch.float32).tiny)
    return (rest**gamma * -log_p).mean()
