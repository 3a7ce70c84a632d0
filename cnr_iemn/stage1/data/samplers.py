"""Samplers: the order of the slices in an epoch, and the batches of each rank."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

SMALLEST_PART = 2
"""Fewest slices on which batch norm can train."""
SMALLEST_BATCH = 8
"""Fewest slices of an epoch's last batch: the statistics of fewer are noise that a whole step would follow."""


class EpochShuffle(Sampler[int]):
    """A new order in every epoch, determined by seed and epoch; yields round * n + item.

    Every epoch is one round, which shows each item once. With ``classes`` it shows as many items of each class: some of
    the large classes, and in several rounds those of the small ones. An item and its round are never shown twice.
    The trainer calls ``set_epoch`` before each epoch, but makes its first iterator earlier (see SliceDataModule).

    Args:
        n: Number of items, and of what an epoch shows.
        seed: Of the order.
        classes: Class of each item, int [n], where the classes are to be sampled alike.
        repeat: Whether every epoch has the order of the first one.
    """

    def __init__(self, n: int, *, seed: int, classes: NDArray[np.int64] | None = None, repeat: bool = False) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0
        self.repeat = repeat
        self._classes = [] if classes is None else [np.flatnonzero(classes == k) for k in np.unique(classes)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = 0 if self.repeat else epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self._classes:
            yield from rng.permutation(self._sample(rng)).tolist()
        else:
            yield from (self.epoch * self.n + rng.permutation(self.n)).tolist()

    def _sample(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return round * n + item of as many items of each class, of the first ones one more where n asks for it."""
        shares = np.array_split(np.arange(self.n), len(self._classes))
        rounds = max(-(-len(share) // len(items)) for share, items in zip(shares, self._classes, strict=True))
        samples = []
        for share, items in zip(shares, self._classes, strict=True):
            laps = [(self.epoch * rounds + lap) * self.n + rng.permutation(items) for lap in range(rounds)]
            samples.append(np.concatenate(laps)[: len(share)])
        return np.concatenate(samples)


class SharedBatches(Sampler[list[int]]):
    """The batches of an epoch, each cut into ``processes`` x ``accumulate`` nearly equal pieces; yields the rank's.

    All processes have as many pieces, none has fewer than two slices. A rest of fewer than ``SMALLEST_BATCH`` slices,
    or too short for the pieces, joins the batch before it; an epoch shorter than a batch is one batch.

    Args:
        shuffle: The order of the slices.
        batch_size: Slices of one optimizer step, over all processes and accumulation steps.
        processes: That train the run.
        rank: Of this process.
        accumulate: Gradient accumulation steps of each process.
    """

    def __init__(
        self, shuffle: EpochShuffle, *, batch_size: int, processes: int = 1, rank: int = 0, accumulate: int = 1
    ) -> None:
        self.sampler = shuffle  # where the trainer looks for set_epoch
        self.batch_size = batch_size
        self.pieces = processes * accumulate
        self.rank_pieces = range(rank * accumulate, (rank + 1) * accumulate)
        full, rest = divmod(len(shuffle), batch_size)
        needed = SMALLEST_PART * self.pieces
        self.batches = full + (rest >= (max(SMALLEST_BATCH, needed) if full else needed))

    def __len__(self) -> int:
        return self.batches * len(self.rank_pieces)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.array(list(self.sampler), dtype=np.int64)
        for k in range(self.batches):
            start = k * self.batch_size
            pieces = np.array_split(order[start : start + self._size(k)], self.pieces)
            yield from (pieces[piece].tolist() for piece in self.rank_pieces)

    def weight(self, index: int) -> float:
        """Return by what the mean loss of this process's piece ``index`` is multiplied.

        So that the mean over all pieces of a batch is the mean over its slices, where pieces differ by a slice.
        """
        batch, step = divmod(index, len(self.rank_pieces))
        n = self._size(batch)
        piece = self.rank_pieces[step]
        size = n // self.pieces + (piece < n % self.pieces)  # as numpy.array_split cuts
        return size * self.pieces / n

    def _size(self, batch: int) -> int:
        """Return the number of slices of a batch; the last one takes the rest."""
        is_last = batch == self.batches - 1
        return len(self.sampler) - batch * self.batch_size if is_last else self.batch_size
