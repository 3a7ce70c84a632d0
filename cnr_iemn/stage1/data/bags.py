"""Bags of slices: what a network learns from where only the patients' classes are known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from cnr_iemn.data.cohort import UNLABELLED, Cohort
from cnr_iemn.stage1.data.balancing import copies_per_class
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset, SliceTable, loading_arguments

HEALTHY = 0
"""The first class: none of its scans has a slice of another."""


@dataclass(frozen=True)
class BagLabels:
    """What is known of the scans and slices of a table.

    ``scan``: class of each scan, int64 [scans]. ``slices``: class of each slice where it is certain, that of a
    reader or of a healthy scan, else UNLABELLED, int64 [rows].
    """

    table: SliceTable
    scan: NDArray[np.int64]
    slices: NDArray[np.int64]

    @classmethod
    def of(
        cls, cohort: Cohort, table: SliceTable, labels: Mapping[str, str], *, use_readers: bool = True
    ) -> "BagLabels":
        """Return the labels of a table. ``labels``: class by scan_id. ``use_readers``: the slices' own are true."""
        scan = np.array([cohort.classes.index(labels[scan_id]) for scan_id in table.scan_ids], dtype=np.int64)
        weak = {record.scan_id for record in cohort.scans if record.weak}
        read = np.array([use_readers and scan_id not in weak for scan_id in table.scan_ids])[table.scan]
        slices = np.where(read, table.label, UNLABELLED)
        return cls(table, scan, np.where(scan[table.scan] == HEALTHY, HEALTHY, slices))


class BagShuffle(Sampler[list[int]]):
    """The bags of an epoch in a new order, determined by seed and epoch; yields lists of epoch * rows + row.

    A bag is ``size`` slices of a scan, one of each of as many equal parts of it, or all where it has no more. A
    scan has as many bags as show each of its slices about once; those of rarer classes are repeated. ``repeat``: every
    epoch has the bags of the first one.
    """

    def __init__(self, labels: BagLabels, *, size: int, n_classes: int, seed: int, repeat: bool = False) -> None:
        table = labels.table
        self.rows = [np.flatnonzero(table.scan == k) for k in range(len(table.scan_ids))]
        self.size = size
        self.seed = seed
        self.repeat = repeat
        self.epoch = 0
        self.n_items = len(table)
        bags = np.array([-(-len(rows) // size) for rows in self.rows])
        of_class = np.bincount(labels.scan, weights=bags, minlength=n_classes).astype(int).tolist()
        names = [str(k) for k in range(n_classes)]
        copies = np.array(copies_per_class(of_class, classes=names, copies="auto"))
        self.scans = np.repeat(np.arange(len(bags)), bags * (1 + copies[labels.scan]))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = 0 if self.repeat else epoch

    def __len__(self) -> int:
        return len(self.scans)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for scan in rng.permutation(self.scans):
            rows = self.rows[scan]
            if len(rows) > self.size:
                edges = np.arange(self.size + 1) * len(rows) // self.size
                rows = rows[rng.integers(edges[:-1], edges[1:])]
            yield (self.epoch * self.n_items + rows).tolist()


class BagBatches(Sampler[list[int]]):
    """The bags of an epoch in batches of ``bags``, or nearly so many."""

    def __init__(self, shuffle: BagShuffle, *, bags: int) -> None:
        self.sampler = shuffle  # where the trainer looks for set_epoch
        self.batches = -(-len(shuffle) // bags)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        bags = list(self.sampler)
        for indices in np.array_split(np.arange(len(bags)), self.batches):
            yield [row for k in indices for row in bags[k]]

    def weight(self, index: int) -> float:
        """Return by what the loss of a batch is multiplied: it is the mean over its bags."""
        return 1.0


class BagDataModule(SliceDataModule):
    """Loaders of bags of the training slices, and of the validation slices one after the other.

    The arguments are those of ``SliceDataModule``; ``labels``: of the training table; ``bag_size``: slices.
    """

    def __init__(
        self,
        training: SliceDataset,
        validation: SliceDataset | None,
        labels: BagLabels,
        *,
        bag_size: int,
        n_classes: int,
        batch_size: int,
        workers: int,
        seed: int,
        accumulate: int = 1,
        for_gpu: bool = False,
    ) -> None:
        super().__init__(
            training,
            validation,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            accumulate=accumulate,
            for_gpu=for_gpu,
        )
        self.labels = labels
        self.bag_size = bag_size
        self.n_classes = n_classes

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the loader of an epoch's bags."""
        shuffle = BagShuffle(
            self.labels, size=self.bag_size, n_classes=self.n_classes, seed=self.seed, repeat=self.same_order
        )
        shuffle.set_epoch(self.first_epoch)
        bags = max(1, self.batch_size // (self.bag_size * self.accumulate))
        return DataLoader(
            self.training,
            batch_sampler=BagBatches(shuffle, bags=bags),
            persistent_workers=self.workers > 0,
            **loading_arguments(self.workers, for_gpu=self.for_gpu),
        )
