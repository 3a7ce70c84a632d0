"""Selection of hardware and precision."""

import pytest
import torch

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.training.hardware import choose_hardware


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"gpus=1 was asked for, but torch finds no usable CUDA GPU"):
        choose_hardware(1)
    assert choose_hardware(None).device.type == "cpu"
    assert choose_hardware(0).device.type == "cpu"


def test_an_available_gpu_is_used_unless_the_cpu_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_hardware(0).device.type == "cpu"
    assert torch.backends.cudnn.allow_tf32
    assert choose_hardware(None).device.type == "cuda"
    assert not torch.backends.cudnn.allow_tf32
    assert choose_hardware(1).precision == "bf16"
    assert choose_hardware(0).device.type == "cpu"
    assert (choose_hardware(None).processes, choose_hardware(2).processes) == (1, 2)
    assert choose_hardware(2, nodes=3).processes == 6
    with pytest.raises(ConfigurationError, match="cpu_processes=2 is for training on the CPU"):
        choose_hardware(None, cpu_processes=2)
    with pytest.raises(ConfigurationError, match="finds 2 CUDA"):
        choose_hardware(3)


@pytest.mark.parametrize(("flags", "expected"), [({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "32")])
def test_bf16_only_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert choose_hardware(0).precision == expected
    assert choose_hardware(0, "32").precision == "32"
