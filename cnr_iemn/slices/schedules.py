"""How the learning rate changes from batch to batch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def make_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    batches: int,
    epochs: int,
    milestones: tuple[int, ...],
    decay: float,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Return a schedule that is stepped after each of the ``batches`` of all ``epochs``.

    ``steps``: times ``decay`` after the epochs ``milestones`` (the paper's, section 3.1.1). ``cosine``: half a cosine
    from the rate to zero (Loshchilov and Hutter 2016). ``constant``: the rate. These three first rise linearly over
    ``warmup_epochs`` (Goyal et al. 2017). ``one_cycle``: up to the rate over the first fifth of the batches, a cosine's
    fall to all but zero (Smith and Topin 2018).

    Counted in batches, so that a checkpoint knows where in it an epoch ended.
    """
    if name == "one_cycle":
        rate = optimizer.param_groups[0]["lr"]
        # Adam's beta stays
        return OneCycleLR(optimizer, max_lr=rate, total_steps=batches, pct_start=0.2, cycle_momentum=False)
    in_epoch = batches // epochs
    warmup = round(warmup_epochs * in_epoch)

    def factor(batch: int) -> float:
        if batch < warmup:
            return (batch + 1) / warmup
        if name == "steps":
            return float(decay ** sum(batch >= epoch * in_epoch for epoch in milestones))
        if name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (batch - warmup) / max(batches - warmup, 1)))
        return 1.0

    return LambdaLR(optimizer, factor)
