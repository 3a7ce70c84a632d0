"""The loss of stage 1 (section 3.1.1)."""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 1.5) -> Tensor:
    """Return the focal loss (Lin et al., ICCV 2017), unweighted as in the paper (section 3.1.1).

    Args:
        logits: float [b, c]; the loss is computed in float32 in any case.
        targets: Class indices, int64 [b]; or shares of the classes, float32 [b, c], rows of sum 1 (``soft_targets``).
        gamma: 1.5 in the paper; 0 is cross-entropy.

    Returns:
        The mean over the batch of (1 - p)^gamma * -log p, with p the probability of the target class; of several, the
        sum over them weighted by their shares. float32 [].
    """
    log_p = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    if not targets.is_floating_point():
        log_p = log_p.gather(1, targets[:, None])
    # kept above 0, where a power below 1 has no finite gradient
    rest = (1 - log_p.exp()).clamp_min(torch.finfo(torch.float32).tiny)
    losses = rest**gamma * -log_p
    return (losses * targets).sum(1).mean() if targets.is_floating_point() else losses[:, 0].mean()


def lobe_loss(logits: Tensor, targets: Tensor, *, gamma: float = 1.5) -> Tensor:
    """Return the focal loss of several yes-or-no questions a slice; what is not known counts nothing.

    Args:
        logits: float [b, lobes].
        targets: Shares of yes, 0 to 1, NaN where they are not known, float32 [b, lobes].
        gamma: As of ``focal_loss``.

    Returns:
        The sum over the known ones, by the number of slices and lobes, so that batches in parts add up. float32 [].
    """
    label_mask = ~targets.isnan()
    losses: Tensor = sigmoid_focal_loss(logits.float(), targets.nan_to_num(), alpha=-1, gamma=gamma)
    return (losses * label_mask).mean()


def soft_targets(targets: Tensor, n_classes: int, *, smoothing: float) -> Tensor:
    """Return class indices as shares of the classes, of which ``smoothing`` is spread evenly (Szegedy et al. 2016).

    Args:
        targets: int64 [b].
        n_classes: Number of classes.
        smoothing: 0 to below 1.

    Returns:
        float32 [b, n_classes].
    """
    return torch.nn.functional.one_hot(targets, n_classes).float() * (1 - smoothing) + smoothing / n_classes
