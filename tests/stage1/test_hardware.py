"""Selection of hardware and precision."""

import pytest
import torch

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.predict import autocast
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


@pytest.mark.parametrize(
    ("precision", "lightning", "tf32"),
    [("32", "32-true", False), ("bf16", "bf16-mixed", False), ("fp16", "16-mixed", False), ("tf32", "32-true", True)],
)
def test_precisions_of_a_gpu(precision: str, lightning: str, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    flags = torch.backends.cudnn, torch.backends.cuda.matmul  # the second is no object that monkeypatch can restore
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = not tf32
        assert choose_hardware(1, precision).trainer_precision == lightning
        assert [flag.allow_tf32 for flag in flags] == [tf32, tf32]
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_cpu_trains_in_no_precision_of_gpus_and_answers_in_float32(precision: str) -> None:
    with pytest.raises(ConfigurationError, match=f"precision={precision} is for GPUs"):
        choose_hardware(0, precision)
    product = torch.nn.Linear(8, 8)
    before = torch.backends.cuda.matmul.allow_tf32
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        assert product(torch.zeros(1, 8)).dtype == torch.float32
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32" or before)
    assert torch.backends.cuda.matmul.allow_tf32 == before
    with torch.inference_mode(), autocast(torch.device("cpu"), "bf16"):
        assert product(torch.zeros(1, 8)).dtype == torch.bfloat16
