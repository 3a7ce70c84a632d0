"""SIGTERM while Lightning trains ends the run at once, as Ctrl-C does, and does not mark it as finished."""

import os
import signal
from pathlib import Path

import pytest
import torch

from cnr_iemn.config.schema.settings import TrainerSettings
from cnr_iemn.config.signals import termination
from cnr_iemn.errors import Termination
from tests.stage1.distributed_step import N, Recording, begin, train_step


@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")
def test_a_signal_ends_the_training_in_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def signalled(self: Recording, optimizer: torch.optim.Optimizer) -> None:
        steps.append(self.trainer.current_epoch)
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("after the signal")

    monkeypatch.setattr(Recording, "on_before_optimizer_step", signalled)
    settings = begin(tmp_path, TrainerSettings(max_epochs=3, batch_size=N))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Termination) as ended, termination():
        train_step(settings)
    assert ended.value.exit_code == 143
    assert steps == [0]
    assert signal.getsignal(signal.SIGTERM) == before
