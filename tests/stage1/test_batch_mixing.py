"""Mixed batches: pixels, classes, regions and positions with the same shares."""

import pytest
import torch
from torch import Tensor

from cnr_iemn.stage1.data.batch_mixing import BatchMixing


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Four slices, each of one grey value; the shares of the classes and the positions say which."""
    grey = torch.tensor([0, 60, 120, 255], dtype=torch.uint8)
    return grey[:, None, None, None].expand(4, 3, 16, 16).clone(), torch.eye(4), torch.rand(4, 2)


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_shares_say_what_the_pixels_show(alphas: dict[str, float]) -> None:
    torch.manual_seed(0)
    mixing = BatchMixing(**alphas)
    changed = 0
    for _ in range(20):
        images, classes, position = batch()
        mixed, shares, places = mixing(images, classes, position)
        assert mixed.dtype == shares.dtype == torch.float32
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares @ (images[:, 0, 0, 0].float() / 255))
        torch.testing.assert_close(places, shares @ position)
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        changed += not torch.equal(shares, classes)
    assert changed > 10


def test_with_both_each_batch_has_one_of_them() -> None:
    torch.manual_seed(0)
    mixing = BatchMixing(mixup=1.0, cutmix=1.0)
    flat = [mixing(*batch()[:2])[0][1].unique().numel() == 1 for _ in range(30)]
    assert 5 < sum(flat) < 30  # a blend of two flat slices is flat, a rectangle within one is not


def test_nothing_is_mixed_by_default() -> None:
    assert not BatchMixing()
    assert BatchMixing(mixup=0.2)
    images, classes, position = batch()
    same = BatchMixing(label_smoothing=0.1)
    assert same
    assert all(a is b for a, b in zip(same(images, classes, position), (images, classes, position), strict=True))
