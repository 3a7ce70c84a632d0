"""Learning rate schedules, in batches."""

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
    """Return a learning rate schedule, counted in batches so that a resumed run continues where it stopped.

    Args:
        name: ``steps``: multiply by ``decay`` after the epochs ``milestones`` (the paper's, section 3.1.1).
            ``cosine``: half a cosine from the rate to zero (Loshchilov and Hutter 2016). ``constant``. ``one_cycle``:
            up to the rate over the first fifth of the batches, then a cosine to almost zero (Smith and Topin 2018).
        optimizer: With the rate at its start.
        batches: Number of optimizer steps of the training.
        epochs: Number of epochs of the training.
        milestones: Epochs of ``steps``.
        decay: Factor of ``steps``.
        warmup_epochs: Epochs of a linear rise at the start, not of ``one_cycle`` (Goyal et al. 2017).
    """
    if name == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # Adam's beta stays
        return OneCycleLR(optimizer, max_lr=rates, total_steps=batches, pct_start=0.2, cycle_momentum=False)
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
