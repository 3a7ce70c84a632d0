"""Division of batches among processes and accumulation steps."""

import numpy as np
import pytest

from cnr_iemn.stage1.data.samplers import EpochShuffle, SharedBatches


def pieces(n: int, processes: int, steps: int) -> list[list[list[int]]]:
    """The pieces of every process, by process."""
    by_rank = []
    for rank in range(processes):
        shuffle = EpochShuffle(n, seed=3)
        shuffle.set_epoch(2)
        batches = SharedBatches(shuffle, batch_size=16, processes=processes, rank=rank, accumulate=steps)
        by_rank.append(list(batches))
        assert len(by_rank[-1]) == len(batches)
    return by_rank


@pytest.mark.parametrize(("processes", "steps"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("n", [45, 46, 48, 49, 55])
def test_the_ranks_batches_are_pieces_of_a_single_process_s_batch(n: int, processes: int, steps: int) -> None:
    (whole,) = pieces(n, 1, 1)
    cut = pieces(n, processes, steps)
    batches = len(cut[0]) // steps
    for k in range(batches):
        union = [item for rank in cut for piece in rank[k * steps : (k + 1) * steps] for item in piece]
        assert union == whole[k]
    assert {len(rank) for rank in cut} == {batches * steps}
    assert min(len(piece) for rank in cut for piece in rank) >= 2
    assert batches == len(whole)
    assert sorted(item for batch in whole for item in batch) == list(range(2 * n, 3 * n))  # nothing is left out


@pytest.mark.parametrize("n", [45, 48, 55])
def test_weights_make_the_mean_over_pieces_the_mean_over_slices(n: int) -> None:
    loss = np.random.default_rng(0).random(3 * n)  # by item; the epoch is 2
    (whole,) = pieces(n, 1, 1)
    cut = pieces(n, 2, 3)
    for k in range(len(cut[0]) // 3):
        mean = 0.0
        for rank in range(2):
            batches = SharedBatches(EpochShuffle(n, seed=3), batch_size=16, processes=2, rank=rank, accumulate=3)
            for index in range(3 * k, 3 * k + 3):
                mean += batches.weight(index) * loss[cut[rank][index]].mean() / 6
        assert mean == pytest.approx(loss[whole[k]].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (48, 16, [16, 16, 16]),
        (49, 16, [16, 16, 17]),
        (55, 16, [16, 16, 23]),
        (56, 16, [16, 16, 16, 8]),  # eight slices are a batch
        (7, 16, [7]),  # none before it
        (1, 16, []),  # batch norm cannot train on one
        (11, 4, [4, 7]),
    ],
)
def test_a_rest_of_fewer_than_eight_slices_joins_the_batch_before(n: int, batch_size: int, sizes: list[int]) -> None:
    batches = SharedBatches(EpochShuffle(n, seed=0), batch_size=batch_size)
    found = list(batches)
    assert [len(batch) for batch in found] == sizes
    assert len(batches) == len(sizes)
    assert sorted(item for batch in found for item in batch) == list(range(n if sizes else 0))
    assert [batches.weight(k) for k in range(len(sizes))] == [1.0] * len(sizes)


def test_a_rest_too_short_for_the_pieces_joins_too() -> None:
    shuffle = EpochShuffle(57, seed=0)  # a rest of nine, and twelve slices for two of each of six pieces
    batches = [SharedBatches(shuffle, batch_size=16, processes=2, rank=rank, accumulate=3) for rank in range(2)]
    assert [len(each) for each in batches] == [9, 9]
    assert sum(len(piece) for each in batches for piece in each) == 57


@pytest.mark.parametrize("counts", [(40, 7, 3), (5, 5, 5), (60, 1, 1)])
def test_sampled_classes_are_shown_alike_and_no_item_twice_in_a_round(counts: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), counts))
    n = len(labels)
    shuffle = EpochShuffle(n, seed=1, classes=labels)
    epochs = []
    for epoch in range(3):
        shuffle.set_epoch(epoch)
        epochs.append(list(shuffle))
        assert len(epochs[-1]) == len(shuffle) == n
        shown = np.bincount(labels[np.array(epochs[-1]) % n], minlength=3)
        assert shown.max() - shown.min() <= 1
        times = np.bincount(np.array(epochs[-1]) % n, minlength=n)
        for k in range(3):  # within a class no item is shown twice before all were shown once
            assert np.ptp(times[labels == k]) <= 1
    everything = [index for epoch in epochs for index in epoch]
    assert len(set(everything)) == 3 * n  # each item in a round of its own, so that its warp is another one
    shuffle.set_epoch(1)
    assert list(shuffle) == epochs[1]
