"""Device, precision and number of processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from cnr_iemn.errors import ConfigurationError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Hardware:
    """``precision``: 32; tf32 (of a GPU's matrix products); bf16 or fp16 (autocast, weights stay float32).

    ``processes``: on all ``nodes`` together.
    """

    device: torch.device
    precision: str
    processes: int = 1
    nodes: int = 1

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{usable_cores()} CPU cores"
        several = f", {self.processes} processes" if self.processes > 1 else ""
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{name}, precision {self.precision}{several}{nodes}"

    @property
    def trainer_precision(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """The precision as Lightning's Trainer calls it."""
        if self.precision == "bf16":
            return "bf16-mixed"
        return "16-mixed" if self.precision == "fp16" else "32-true"

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.device.type == "cuda"


def choose_hardware(gpus: int | None, precision: str = "auto", *, nodes: int = 1, cpu_processes: int = 1) -> Hardware:
    """Return device, precision and number of processes.

    Args:
        gpus: None = one GPU where there is one, 0 = CPU, n = n GPUs of each node.
        precision: auto (bf16 where the machine computes in it, else 32), 32, bf16, or of a GPU fp16 or tf32.
        nodes: Number of machines.
        cpu_processes: On each node, where no GPU is used.

    Raises:
        ConfigurationError: The machine does not have the GPUs, or the CPU is to compute as GPUs do.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is not None and gpus > available:
        reason = "torch finds no usable CUDA GPU" if available == 0 else f"torch finds {available} CUDA GPU(s)"
        raise ConfigurationError(
            f"gpus={gpus} was asked for, but {reason} on this machine. Give gpus=0 to compute on the CPU, "
            "gpus=null to take what the machine has, or check the driver with nvidia-smi."
        )
    device = torch.device("cuda" if available and gpus != 0 else "cpu")
    if device.type == "cuda" and cpu_processes > 1:
        raise ConfigurationError(
            f"trainer.cpu_processes={cpu_processes} is for training on the CPU: add trainer.gpus=0, or give "
            "trainer.gpus=n for a process on each of n GPUs."
        )
    if precision == "auto":
        precision = "bf16" if _computes_bf16(device) else "32"
    if device.type == "cuda":
        allow_tf32(precision == "tf32")
    elif precision in ("fp16", "tf32"):
        raise ConfigurationError(
            f"trainer.precision={precision} is for GPUs, and the CPU was chosen. Give trainer.precision=auto."
        )
    per_node = cpu_processes if device.type == "cpu" else gpus or 1
    return Hardware(device, precision, processes=per_node * nodes, nodes=nodes)


def allow_tf32(allowed: bool) -> None:
    """Let a GPU's matrix products and convolutions round float32 to 10 binary digits, or not.

    Not is the choice of all precisions but tf32: cuDNN would otherwise round.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch compute the same bits each time; cuBLAS reads an environment variable before its first use."""
    if not enabled:
        yield
        return
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(_CUBLAS)
    os.environ[_CUBLAS] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        os.environ.pop(_CUBLAS)
        if workspace is not None:
            os.environ[_CUBLAS] = workspace


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    """Set ``torch.backends.cudnn.benchmark``. Faster on a GPU, but results may differ between runs."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # emulated bf16 is slower than float32, so only instructions count; older torch cannot tell: float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(key) for key in ("avx512_bf16", "amx_bf16", "sve_bf16"))
