"""Learning rates by batch, against their closed forms."""

import math

import pytest
import torch

from cnr_iemn.stage1.models.lr_schedules import make_schedule

RATE = 2e-3


def rates(name: str, *, batches: int = 50, **settings: float) -> list[float]:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=RATE)
    schedule = make_schedule(name, optimizer, batches=batches, epochs=5, milestones=(2, 4), decay=0.1, **settings)
    rates = []
    for batch in range(batches):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        optimizer.step()
        if batch < batches - 1:
            schedule.step()
    return rates


def test_steps() -> None:
    assert rates("steps") == pytest.approx([RATE] * 20 + [RATE / 10] * 20 + [RATE / 100] * 10)


def test_constant_after_a_rise() -> None:
    expected = [RATE * (k + 1) / 5 for k in range(5)] + [RATE] * 45
    assert rates("constant", warmup_epochs=0.5) == pytest.approx(expected)


def test_cosine_after_a_rise() -> None:
    expected = [RATE * (k + 1) / 10 for k in range(10)]
    expected += [RATE * (1 + math.cos(math.pi * k / 40)) / 2 for k in range(40)]
    assert rates("cosine", warmup_epochs=1) == pytest.approx(expected)


def test_one_cycle() -> None:
    """A fifth of 50 batches up along a cosine from a 25th of the rate, the rest down to all but zero."""
    low, high, end = RATE / 25, RATE, RATE / 25 / 1e4
    up = [low + (high - low) * (1 - math.cos(math.pi * k / 9)) / 2 for k in range(10)]
    down = [end + (high - end) * (1 + math.cos(math.pi * k / 40)) / 2 for k in range(1, 41)]
    assert rates("one_cycle") == pytest.approx(up + down)
