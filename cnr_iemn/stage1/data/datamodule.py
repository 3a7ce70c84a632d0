"""Datasets and loaders: the training items of an epoch, and the slices of scans for validation and prediction."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, Protocol, TypedDict, cast

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from cnr_iemn.config.schema.settings import AugmentationSettings
from cnr_iemn.constants import N_REGIONS
from cnr_iemn.data.cohort import UNLABELLED, assign_slice_groups
from cnr_iemn.data.slice_store import read_slices
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.data.augmentation import draw_warp, plain_warp
from cnr_iemn.stage1.data.balancing import TrainingItems, copy_rng
from cnr_iemn.stage1.data.input_channels import InputChannels
from cnr_iemn.stage1.data.samplers import EpochShuffle, SharedBatches
from cnr_iemn.stage1.models.network import position_inputs
from cnr_iemn.utils.atomic_io import allow_open_files

_OPEN_FILES = 4  # of a scan: grey and mask, which stay mapped, of training or validation and of the prediction after it


class SliceBatch(TypedDict):
    """One batch. ``image``: uint8 [b, 3, s, s]; ``position``: float32 [b, 2]; the others int64 [b].

    ``slice``: position in the SliceTable, by which an item is known again. ``lobes``: of the table, float32 [b, lobes].
    """

    image: Tensor
    position: Tensor
    label: Tensor
    region: Tensor
    slice: Tensor
    lobes: NotRequired[Tensor]


@dataclass(frozen=True)
class SliceTable:
    """Slices of some scans, one row each, scan after scan and head first.

    ``scan_ids``: names; ``scan``: int64 [n], index into them; ``slice_index`` and ``n_slices``: int64 [n];
    ``region``: int64 [n], 0 to 4 (section 2.1.2); ``label``: int64 [n], class index or UNLABELLED.
    ``lobes``: float32 [n, lobes] of ``lobe_labels``; None where they are not read.
    """

    scan_ids: tuple[str, ...]
    scan: NDArray[np.int64]
    slice_index: NDArray[np.int64]
    n_slices: NDArray[np.int64]
    region: NDArray[np.int64]
    label: NDArray[np.int64]
    lobes: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, n_slices: dict[str, int], labels: dict[str, NDArray[np.int64] | None]) -> "SliceTable":
        """Return the table of these scans: number of slices and class indices (or None) by scan id, in one order."""
        counts = np.array(list(n_slices.values()), dtype=np.int64)
        label = [
            np.full(n, UNLABELLED, dtype=np.int64) if indices is None else indices
            for n, indices in zip(n_slices.values(), labels.values(), strict=True)
        ]
        return cls(
            scan_ids=tuple(n_slices),
            scan=np.repeat(np.arange(len(counts)), counts),
            slice_index=np.concatenate([np.arange(n) for n in counts]),
            n_slices=np.repeat(counts, counts),
            region=np.concatenate([assign_slice_groups(n, N_REGIONS) for n in counts]),
            label=np.concatenate(label),
        )

    def __len__(self) -> int:
        return len(self.scan)

    def labelled(self) -> "SliceTable":
        """Return the rows that have a label."""
        labelled = self.label != UNLABELLED
        columns = ["scan", "slice_index", "n_slices", "region", "label"]
        columns += [] if self.lobes is None else ["lobes"]
        return replace(self, **{name: getattr(self, name)[labelled] for name in columns})


class SliceMasks(Protocol):
    """Masks by slice, packed or not."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        """Return the mask of one slice, 0 or 1, uint8 [size, size]."""


class PixelSource(Protocol):
    """What SliceDataset reads from: the slice store, or scans in memory. uint8, each slice [size, size]."""

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices."""

    def lungs(self, scan_id: str) -> SliceMasks:
        """Return the lung mask, 0 or 1."""


class SliceDataset(Dataset[dict[str, Tensor]]):
    """Slices of the store as the network sees them.

    ``channels``: what an image shows; by default the paper's three. ``items``: which rows of ``table`` an epoch shows
    and which of them are warped; None = each row once, as it is. An index is round * len + item (see EpochShuffle), so
    that copies drawn anew know their round in every worker.
    """

    def __init__(
        self,
        source: PixelSource,
        table: SliceTable,
        *,
        image_size: int,
        channels: InputChannels | None = None,
        items: TrainingItems | None = None,
        augmentation: AugmentationSettings | None = None,
        redraw: bool = False,
        seed: int = 0,
    ) -> None:
        if items is not None and augmentation is None:
            raise ConfigurationError("Training items need the settings of their augmentation.")
        self.source = source
        self.table = table
        self.image_size = image_size
        self.channels = channels or InputChannels()
        self.items = items
        self.augmentation = augmentation
        self.redraw = redraw
        self.seed = seed
        allow_open_files(_OPEN_FILES * len(table.scan_ids))
        self._pixels_of_scan: dict[int, tuple[NDArray[np.uint8], SliceMasks]] = {}

    def __len__(self) -> int:
        return len(self.table) if self.items is None else len(self.items)

    @property
    def item_labels(self) -> NDArray[np.int64]:
        """Class index of each item, int64 [items]."""
        return self.table.label if self.items is None else self.table.label[self.items.source]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        lap, item = divmod(index, len(self))
        row = item if self.items is None else int(self.items.source[item])
        table = self.table
        grey, lungs, neighbours = self._pixels(row)
        size = grey.shape[-1]
        warp = plain_warp(input_size=size, image_size=self.image_size)
        if self.items is not None and self.augmentation is not None and self.items.warped[item]:
            scan_id, copy = table.scan_ids[table.scan[row]], int(self.items.copy[item])
            drawn = lap if self.redraw else None
            rng = copy_rng(self.seed, scan_id, int(table.slice_index[row]), copy, drawn)
            warp = draw_warp(rng, self.augmentation, input_size=size, image_size=self.image_size)
        image = self.channels(grey, lungs, neighbours, warp, self.image_size)  # [3, s, s]
        position = position_inputs(table.slice_index[row], table.n_slices[row])  # [2]
        lobes = {} if table.lobes is None else {"lobes": torch.from_numpy(table.lobes[row])}
        return {
            "image": torch.from_numpy(image),
            "position": torch.from_numpy(position),
            "label": torch.tensor(table.label[row]),
            "region": torch.tensor(table.region[row]),
            "slice": torch.tensor(row),
            **lobes,
        }

    def _pixels(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[int, NDArray[np.uint8]]]:
        """Return grey and mask of a row's slice, and the grey of its neighbours by their distance."""
        table = self.table
        scan, index, last = int(table.scan[row]), int(table.slice_index[row]), int(table.n_slices[row]) - 1
        if scan not in self._pixels_of_scan:
            scan_id = self.table.scan_ids[scan]
            self._pixels_of_scan[scan] = self.source.grey(scan_id), self.source.lungs(scan_id)
        grey, lungs = self._pixels_of_scan[scan]
        places = {offset: min(max(index + offset, 0), last) for offset in self.channels.offsets}
        return read_slices(grey, index), lungs[index], {k: read_slices(grey, place) for k, place in places.items()}


class SliceDataModule(pl.LightningDataModule):
    """Loaders of the training items and of the labelled validation slices.

    Args:
        training: Training items.
        validation: Labelled validation slices, if any.
        batch_size: Slices of one optimizer step, over all processes and accumulation steps (see SharedBatches).
        workers: Loading processes.
        seed: Of the order of the slices.
        accumulate: Gradient accumulation steps.
        for_gpu: Whether batches lie in pinned memory, which a GPU copies fastest.
        sample_classes: Whether an epoch shows as many items of each class (see EpochShuffle).
    """

    def __init__(
        self,
        training: SliceDataset,
        validation: SliceDataset | None,
        *,
        batch_size: int,
        workers: int,
        seed: int,
        accumulate: int = 1,
        for_gpu: bool = False,
        sample_classes: bool = False,
    ) -> None:
        super().__init__()
        self.training = training
        self.validation = validation
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.accumulate = accumulate
        self.for_gpu = for_gpu
        self.sample_classes = sample_classes
        self.same_order = False
        """Whether every epoch has the order of the first one, for Lightning's ``overfit_batches``."""
        self.first_epoch = 0

    def state_dict(self) -> dict[str, int]:
        """Return, for a checkpoint at an epoch's end, the epoch that follows."""
        return {"next_epoch": cast(pl.Trainer, self.trainer).current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin with the epoch that follows a checkpoint's."""
        self.first_epoch = state_dict["next_epoch"]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the loader of this rank's share of each epoch."""
        classes = self.training.item_labels if self.sample_classes else None
        shuffle = EpochShuffle(len(self.training), seed=self.seed, classes=classes, repeat=self.same_order)
        shuffle.set_epoch(self.first_epoch)  # the trainer does so only after workers have loaded their first batches
        processes, rank = self._share()
        batches = SharedBatches(
            shuffle, batch_size=self.batch_size, processes=processes, rank=rank, accumulate=self.accumulate
        )
        return DataLoader(
            self.training,
            batch_sampler=batches,
            persistent_workers=self.workers > 0,
            **loading_arguments(self.workers, for_gpu=self.for_gpu),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | Sequence[DataLoader[dict[str, Tensor]]]:
        """Return the loader of this rank's share of the validation slices; an empty list without any."""
        if self.validation is None:
            return []
        processes, rank = self._share()
        share = (
            self.validation if processes == 1 else Subset(self.validation, range(len(self.validation))[rank::processes])
        )
        return plain_loader(share, max(1, self.batch_size // processes), self.workers, for_gpu=self.for_gpu)

    def _share(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def plain_loader(
    dataset: Dataset[dict[str, Tensor]], batch_size: int, workers: int, *, for_gpu: bool = False
) -> DataLoader[dict[str, Tensor]]:
    """Return a loader that shows each slice once, in order. ``for_gpu``: from where a GPU copies fastest."""
    return DataLoader(dataset, batch_size=batch_size, **loading_arguments(workers, for_gpu=for_gpu))


def loading_arguments(workers: int, *, for_gpu: bool) -> dict[str, Any]:
    """Return the arguments of a loader that say how it loads."""
    # named, since a process of several that train one run would start its loaders as it was started: one after the
    # other, each importing torch anew
    start = "fork" if workers and sys.platform == "linux" else None
    return {
        "num_workers": workers,
        "pin_memory": for_gpu,
        "worker_init_fn": _prepare_worker,
        "multiprocessing_context": start,
    }


def _prepare_worker(worker: int) -> None:
    """Set up a loading process: no threads of OpenCV, and signals left to the process that trains.

    There is a worker for each core, so OpenCV gets 0 threads: 1 waits for threads that no fork copies. scancel and
    timeout signal all processes of a job; a worker that died of it would end the training as a lost worker does. The
    training process ends its workers itself.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
