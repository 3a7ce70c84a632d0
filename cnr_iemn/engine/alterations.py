"""Inputs of the networks without what they may go by: all but the lungs, the lungs, where a slice lies.

Altered is what the network is given, at its own size and after all resizing, so that nothing of what is taken away is
left in an interpolated pixel. Channels are those of ``ct.window.three_channels``: grey, lung mask, grey within it.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cnr_iemn.slices.network import position_inputs

Batch = dict[str, Tensor]
Alteration = Callable[[Batch], Batch]

UNALTERED = "unaltered"
OUTSIDE, LUNGS, CHEST = "outside the lungs replaced", "lungs erased", "lungs and their outline erased"
LOCATION, COUNT = "location permuted within the scan", "number of slices of another scan"
_GREY, _MASK, _WITHIN = range(3)


def alterations(
    n_slices: int, other_count: int, rng: np.random.Generator, *, inputs: set[str]
) -> dict[str, Alteration]:
    """Return every alteration of one scan's batches by its name, first none at all.

    ``n_slices``: of the scan. ``other_count``: number of slices that it is said to have instead. ``inputs``: the
    networks' ``model.position``; what no network is given is not altered. ``rng``: for the order of the locations.
    """
    slices = np.arange(n_slices)
    found: dict[str, Alteration] = {
        UNALTERED: lambda batch: batch,
        OUTSIDE: _of_image(without_outside),
        LUNGS: _of_image(without_lungs),
        CHEST: _of_image(without_outline),
    }
    order = rng.permutation(n_slices)
    if inputs & {"both", "location"}:
        found[LOCATION] = partial(_placed, torch.from_numpy(position_inputs(order, n_slices)))
    if "both" in inputs:
        own, counted = position_inputs(slices, n_slices), position_inputs(slices, other_count)
        own[:, 0] = counted[:, 0]
        found[COUNT] = partial(_placed, torch.from_numpy(own))
    return found


def without_outside(images: Tensor) -> Tensor:
    """Return the images with 0 in the grey channel outside the lungs, the constant that the third channel has there.

    The grey channel is then the third. ``images``: uint8 [b, 3, s, s], here and below.
    """
    altered = images.clone()
    altered[:, _GREY] = images[:, _WITHIN]
    return altered


def without_lungs(images: Tensor) -> Tensor:
    """Return the images with the mean grey outside the lungs, slice by slice, in their place; the mask stays.

    So that nothing enters which is not outside anyway. The third channel is 0 everywhere. The lungs' outline remains.
    """
    altered = _filled(images, images[:, _MASK] > 0)
    altered[:, _MASK] = images[:, _MASK]
    return altered


def without_outline(images: Tensor) -> Tensor:
    """Return the images with the rectangle around the lungs of each slice filled, and an empty mask.

    Filled with the mean grey outside the rectangle. It takes heart and spine along: what remains is the wall of the
    chest, table and border. Of the lungs only the rectangle's sides are told.
    """
    lungs = images[:, _MASK] > 0
    rows, columns = _from_first_to_last(lungs.any(dim=2)), _from_first_to_last(lungs.any(dim=1))
    return _filled(images, rows[:, :, None] & columns[:, None, :])


def _filled(images: Tensor, there: Tensor) -> Tensor:
    """Return the images with the mean grey of all else ``there``, bool [b, s, s]; mask and third channel 0."""
    grey, rest = images[:, _GREY], ~there
    mean = (grey * rest).sum(dim=(1, 2)) / rest.sum(dim=(1, 2)).clamp(min=1)
    altered = torch.zeros_like(images)
    altered[:, _GREY] = torch.where(there, mean.round().to(torch.uint8)[:, None, None], grey)
    return altered


def _from_first_to_last(occupied: Tensor) -> Tensor:
    """Return True from the first True to the last in each row, bool [b, s]."""
    return occupied.cummax(dim=1).values & occupied.flip(1).cummax(dim=1).values.flip(1)


def _of_image(change: Callable[[Tensor], Tensor]) -> Alteration:
    return lambda batch: {**batch, "image": change(batch["image"])}


def _placed(position: Tensor, batch: Batch) -> Batch:
    """Return the batch with other position inputs. ``position``: float32 [n_slices, 2], by slice of the scan."""
    return {**batch, "position": position[batch["slice"]]}
