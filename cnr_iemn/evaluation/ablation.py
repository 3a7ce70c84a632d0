"""Input ablations: mask out everything but the lungs, the lungs, or the slice position, on the validation scans.

Stage 2 stays as it is. The networks have never seen an altered image, so that a fall may also come from its
strangeness; an ensemble that is as good without the lungs does not need them. Networks get the altered image at their
own size, after all resizing, so that no interpolated pixel keeps anything of what was masked out. The channels are
those of ``ct.window.three_channels``: grey, lung mask, grey within the mask.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnr_iemn.constants import PAPER_CHANNELS
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.study_metrics import Ablation, Ablations
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.schemas import VALIDATION
from cnr_iemn.stage1.models.network import SINUSOIDS, position_inputs
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage1.training.loggers.progress import show_progress
from cnr_iemn.stage2.ensemble import Ensemble, Member
from cnr_iemn.stage2.feature_space import FeatureSpace
from cnr_iemn.stage2.out_of_fold import ScanArray, SliceSets, by_fold
from cnr_iemn.statistics.confidence_intervals import proportion_intervals
from cnr_iemn.statistics.metrics import evaluate, most_probable
from cnr_iemn.statistics.paired_tests import compare_with

MIN_AGREEMENT = 0.95
"""Share of slices that must keep their saved class without an alteration; another machine's rounding moves few."""

Batch = dict[str, Tensor]
Alteration = Callable[[Batch], Batch]
Predict = Callable[[SliceSets], NDArray[np.float64]]
AlteredSets = dict[str, dict[str, tuple[ScanArray, ...]]]
"""``SliceSets`` of the scans by alteration."""

UNALTERED = "unaltered"
OUTSIDE, LUNGS, CHEST = "outside the lungs replaced", "lungs erased", "lungs and their outline erased"
LOCATION, COUNT = "location permuted within the scan", "number of slices of another scan"
_GREY, _MASK, _WITHIN = range(3)


def ablate(
    study: Path,
    ensemble: Ensemble,
    store: SliceStore,
    patients: pd.DataFrame,
    slices: SliceSets,
    predict: Predict,
    *,
    gpus: int | None = None,
    seed: int = 0,
    space: FeatureSpace | None = None,
) -> Ablations:
    """Run the ensemble's networks on altered validation scans.

    Args:
        study: Folder of the study.
        ensemble: Whose networks run.
        store: The slices that the study was trained on.
        patients: Split and label, index scan_id.
        slices: What the networks predicted when they were trained.
        predict: Class probabilities of scans, float64 [scans, classes], from their slices.
        gpus: As ``choose_hardware`` takes it.
        seed: Of the permutations.
        space: Of the features that stage 2 reads; None where it reads none.

    Raises:
        RunError: A network has other channels than the paper's, a checkpoint is not the ensemble's, or the networks no
            longer predict what was saved.
    """
    other = [member.name for member in ensemble.members if member.channels != PAPER_CHANNELS]
    if other:
        raise RunError(
            f"Ablations mask the paper's channels ({', '.join(PAPER_CHANNELS)}), and {other[0]} has others. Run "
            "aggregate.py without ablations=true."
        )
    networks = EnsembleNetworks(study, ensemble, choose_hardware(gpus), batch_size=64, space=space)
    labels = patients.loc[patients["split"] == VALIDATION, "label"]
    altered = altered_slices(networks, store, labels.index.tolist(), seed=seed)
    agreement = 1 - _share_changed(altered[UNALTERED], slices, len(ensemble.classes))
    if agreement < MIN_AGREEMENT:
        raise RunError(
            f"Only {agreement:.1%} of the validation slices get the class that was saved when the networks were "
            "trained, with nothing altered: the slice store, the networks or this installation have changed since. Run "
            "aggregate.py without ablations=true, or train the study again."
        )
    return {
        "agreement": agreement,
        "n": len(labels),
        "networks": len(ensemble.members),
        "rows": _measure(altered, ensemble, predict, labels.tolist()),
    }


def altered_slices(networks: EnsembleNetworks, store: SliceStore, scan_ids: list[str], *, seed: int) -> AlteredSets:
    """Return the networks' predictions for these scans under each alteration."""
    rng = np.random.default_rng(seed)
    counts = [store.scan(scan_id).n_slices for scan_id in scan_ids]
    permuted_counts = dict(zip(scan_ids, rng.permutation(counts).tolist(), strict=True))
    members = networks.ensemble.members
    inputs = {member.position for member in members}
    altered: AlteredSets = {}
    for scan_id in show_progress(iter(scan_ids), len(scan_ids), verb="Ablations", unit="scans"):
        n_slices = store.scan(scan_id).n_slices
        changes = alterations(n_slices, permuted_counts[scan_id], rng, inputs=inputs)
        predictions: dict[str, dict[Member, NDArray[np.float32]]] = {name: {} for name in changes}
        for member in members:
            batches = list(networks.batches(member, store, scan_id, n_slices))  # read and resized once for all
            for name, alter in changes.items():
                predictions[name][member] = networks.predict(member, map(alter, batches))
        for name, channels in predictions.items():
            sets = by_fold(networks.join(channels), networks.ensemble.folds)
            altered.setdefault(name, {})[scan_id] = sets
    return altered


def _measure(altered: AlteredSets, ensemble: Ensemble, predict: Predict, labels: list[str]) -> dict[str, Ablation]:
    predicted: dict[str, list[str]] = {}
    for name, sets in altered.items():
        predicted[name] = most_probable(predict(sets), ensemble.classes)
    correct = {name: np.array(classes) == np.array(labels) for name, classes in predicted.items()}
    comparisons = compare_with(correct.pop(UNALTERED), correct)
    rows: dict[str, Ablation] = {}
    for name, sets in altered.items():
        evaluation = evaluate(labels, predicted[name], ensemble.classes)
        rows[name] = {
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], ensemble.classes),
            "slice_changes": _share_changed(sets, altered[UNALTERED], len(ensemble.classes)),
            "scan_changes": float(np.mean(np.array(predicted[name]) != np.array(predicted[UNALTERED]))),
            "comparison": comparisons.get(name),
        }
    return rows


def _share_changed(sets: SliceSets, reference: SliceSets, n_classes: int) -> float:
    """Return the share of slices, over the scans of ``sets`` and all networks, with another most probable class."""
    first, second = (
        np.concatenate(
            [array[:, :, :n_classes].argmax(axis=2).ravel() for scan_id in sets for array in source[scan_id]]
        )
        for source in (sets, reference)
    )
    return float(np.mean(first != second)) if len(first) == len(second) else 1.0  # a scan has other slices now


def alterations(
    n_slices: int, other_count: int, rng: np.random.Generator, *, inputs: set[str]
) -> Mapping[str, Alteration]:
    """Return every alteration of one scan's batches by its name, the unaltered input first.

    Args:
        n_slices: Of the scan.
        other_count: The number of slices that replaces it.
        rng: For the order of the locations.
        inputs: The networks' ``model.position``: only the inputs of some network are altered.
    """
    changes: dict[str, Alteration] = {
        UNALTERED: lambda batch: batch,
        OUTSIDE: _image_alteration(without_outside),
        LUNGS: _image_alteration(without_lungs),
        CHEST: _image_alteration(without_outline),
    }
    order, slices = rng.permutation(n_slices), np.arange(n_slices)
    if inputs & {"both", "location", SINUSOIDS}:
        changes[LOCATION] = partial(_set_position, torch.from_numpy(position_inputs(order, n_slices)))
    if inputs & {"both", SINUSOIDS}:
        position = position_inputs(slices, n_slices)
        position[:, 0] = position_inputs(slices, other_count)[:, 0]
        changes[COUNT] = partial(_set_position, torch.from_numpy(position))
    return changes


def without_outside(images: Tensor) -> Tensor:
    """Return the images with 0 in the grey channel outside the lungs, which makes it equal to the third channel.

    ``images``: uint8 [b, 3, s, s], here and below.
    """
    altered = images.clone()
    altered[:, _GREY] = images[:, _WITHIN]
    return altered


def without_lungs(images: Tensor) -> Tensor:
    """Return the images with the mean grey outside the lungs in their place, slice by slice; the mask stays.

    The third channel is 0 everywhere; the outline of the lungs remains.
    """
    altered = _fill(images, images[:, _MASK] > 0)
    altered[:, _MASK] = images[:, _MASK]
    return altered


def without_outline(images: Tensor) -> Tensor:
    """Return the images with the bounding box of the lungs filled, slice by slice, and an empty mask.

    The fill is the mean grey outside the box. Heart and spine go with it: chest wall, table and border remain.
    """
    lungs = images[:, _MASK] > 0
    rows, columns = _span(lungs.any(dim=2)), _span(lungs.any(dim=1))
    return _fill(images, rows[:, :, None] & columns[:, None, :])


def _fill(images: Tensor, region: Tensor) -> Tensor:
    """Fill a region, bool [b, s, s], with the mean grey of all else; mask and third channel become 0."""
    grey, rest = images[:, _GREY], ~region
    mean = (grey * rest).sum(dim=(1, 2)) / rest.sum(dim=(1, 2)).clamp(min=1)
    altered = torch.zeros_like(images)
    altered[:, _GREY] = torch.where(region, mean.round().to(torch.uint8)[:, None, None], grey)
    return altered


def _span(occupied: Tensor) -> Tensor:
    """Return True from the first True to the last in each row, bool [b, s]."""
    return occupied.cummax(dim=1).values & occupied.flip(1).cummax(dim=1).values.flip(1)


def _image_alteration(change: Callable[[Tensor], Tensor]) -> Alteration:
    return lambda batch: {**batch, "image": change(batch["image"])}


def _set_position(position: Tensor, batch: Batch) -> Batch:
    """Return the batch with other position inputs. ``position``: float32 [n_slices, 2], by slice of the scan."""
    return {**batch, "position": position[batch["slice"]]}
